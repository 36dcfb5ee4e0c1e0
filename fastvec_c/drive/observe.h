/* observe.h: writes observation rows in place.
 *
 * A row is what GPUDrive's `get_obs(mask)` gives a controlled agent: 6 floats on itself, 63 x 6 on partners, 200 x 13 on
 * roads; lidar and bird's-eye view may follow.  The normalising formulas keep its order of float32 operations.  Rows are
 * written by code compiled for their kind (normalised or not, packed) and the processor (see drive_cpu); all processors
 * write the same bits.
 */
#ifndef FASTVEC_DRIVE_OBSERVE_H
#define FASTVEC_DRIVE_OBSERVE_H

#include <string.h>

#include "angle.h"
#include "bev.h"
#include "grid.h"
#include "half.h"
#include "lidar.h"

#define DRIVE_NORMAL_POSITION(x) (2.0f * (((x) + 1000.0f) / 2000.0f) - 1.0f) /* a float or a vector of them */
static inline float drive_normal_speed(float v) { return v / 100.0f; }
static inline float drive_normal_length(float v) { return v / 30.0f; }
static inline float drive_normal_width(float v) { return v / 15.0f; }
static inline float drive_normal_road(float v) { return v / 100.0f; }

typedef float drive_float4 __attribute__((vector_size(16)));
typedef float drive_float8 __attribute__((vector_size(32)));
typedef int32_t drive_int8 __attribute__((vector_size(32)));

/* Road segments that an observer sees: where they are from it, their headings, and either their ids or what packed rows
 * hold of them (see drive_eight).  There is room for eight more, so that several at a time can be written and read. */
typedef struct drive_roads {
    int32_t count;
    float x[DRIVE_SEGMENTS + 8], y[DRIVE_SEGMENTS + 8], heading[DRIVE_SEGMENTS + 8];
    uint16_t id[DRIVE_SEGMENTS + 8];
    uint32_t size[DRIVE_SEGMENTS + 8], rest[DRIVE_SEGMENTS + 8];
} drive_roads;

/* What is written by hand for some processors.
 * near_agents: bit j is set where agent j is within the radius of (x, y).
 * near_roads: of the segments in eights[*item .. *end) those within the radius, until there are `enough`; with their ids, or
 * what packed rows hold of them.
 * pack_roads: roads as an observer with this cosine, sine and yaw sees them, packed: at most 200, one after the other, and
 * their types to `type`.  May write over the places of seven more roads there, but not beyond the 200th.
 * halves: n floats as float16; may read and write seven more. */
typedef struct drive_cpu {
    uint64_t (*near_agents)(const drive_world *world, float x, float y, float radius);
    void (*near_roads)(const drive_eight *eights, const uint16_t *item, const uint16_t *end, float x, float y, float radius,
                       int32_t enough, int packed, drive_roads *roads);
    void (*pack_roads)(drive_roads *roads, float c, float s, float yaw, uint8_t *out, uint8_t *type);
    void (*halves)(const float *in, int32_t n, uint16_t *out);
} drive_cpu;

static uint64_t drive_near_agents_portable(const drive_world *world, float x, float y, float radius)
{
    uint64_t near = 0;
    for (int32_t j = 0; j < DRIVE_AGENTS; j++) {
        float dx = world->x[j] - x, dy = world->y[j] - y;
        near |= (uint64_t)(dx * dx + dy * dy <= radius * radius) << j;
    }
    return near;
}

static void drive_near_roads_portable(const drive_eight *eights, const uint16_t *item, const uint16_t *end, float x, float y,
                                      float radius, int32_t enough, int packed, drive_roads *roads)
{
    int32_t count = 0;
    (void)packed;
    for (; item < end && count < enough; item++)
        for (int32_t k = 0; k < 8; k++) {
            const drive_eight *eight = &eights[*item];
            float dx = eight->x[k] - x, dy = eight->y[k] - y;
            roads->x[count] = dx;
            roads->y[count] = dy;
            roads->heading[count] = eight->heading[k];
            roads->id[count] = (uint16_t)(*item * 8 + k);
            roads->size[count] = eight->size[k];
            roads->rest[count] = eight->rest[k];
            count += dx * dx + dy * dy <= radius * radius;
        }
    roads->count = count;
}

/* Places relative to an observer, and headings in [-pi, pi], as it sees them; eight at once. */
DRIVE_PART void drive_eight_into_frame(drive_float8 *x, drive_float8 *y, drive_float8 *heading, float c, float s, float yaw, int normalised)
{
    const drive_float8 two_pi = (drive_float8){0} + DRIVE_TWO_PI;
    drive_float8 ahead = *x * c + *y * s, left = *y * c - *x * s, turn = *heading - yaw;
    turn = turn - (drive_float8)((turn > DRIVE_PI) & (drive_int8)two_pi) + (drive_float8)((turn < -DRIVE_PI) & (drive_int8)two_pi);
    *x = normalised ? DRIVE_NORMAL_POSITION(ahead) : ahead;
    *y = normalised ? DRIVE_NORMAL_POSITION(left) : left;
    *heading = normalised ? turn / DRIVE_TWO_PI : turn;
}

/* The same in place: what comes after `count` is read and overwritten, too. */
DRIVE_PART void drive_into_frame(float *x, float *y, float *heading, int32_t count, float c, float s, float yaw, int normalised)
{
    for (int32_t k = 0; k < count; k += 8) {
        drive_float8 dx, dy, turn;
        memcpy(&dx, x + k, sizeof dx);
        memcpy(&dy, y + k, sizeof dy);
        memcpy(&turn, heading + k, sizeof turn);
        drive_eight_into_frame(&dx, &dy, &turn, c, s, yaw, normalised);
        memcpy(x + k, &dx, sizeof dx);
        memcpy(y + k, &dy, sizeof dy);
        memcpy(heading + k, &turn, sizeof turn);
    }
}

static void drive_pack_roads_portable(drive_roads *roads, float c, float s, float yaw, uint8_t *out, uint8_t *type)
{
    drive_into_frame(roads->x, roads->y, roads->heading, roads->count, c, s, yaw, 1);
    for (int32_t k = 0; k < roads->count; k++) {
        uint16_t road[DRIVE_PACKED_ROAD] = {drive_half(roads->x[k]), drive_half(roads->y[k]), (uint16_t)roads->size[k],
                                            (uint16_t)(roads->size[k] >> 16), (uint16_t)roads->rest[k], drive_half(roads->heading[k])};
        memcpy(out + k * sizeof road, road, sizeof road);
        type[k] = (uint8_t)(roads->rest[k] >> 16);
    }
}

static const drive_cpu drive_any_cpu = {drive_near_agents_portable, drive_near_roads_portable, drive_pack_roads_portable, drive_halves_portable};

#ifdef DRIVE_NEW_CPU
/* For each set of eight lanes: its members, in front. */
static uint8_t drive_lanes[256][8];

static __attribute__((constructor)) void drive_fill_lanes(void)
{
    for (int32_t set = 0; set < 256; set++)
        for (int32_t k = 0, n = 0; k < 8; k++)
            if (set >> k & 1) drive_lanes[set][n++] = (uint8_t)k;
}

static DRIVE_NEW_CPU uint64_t drive_near_agents_avx2(const drive_world *world, float x, float y, float radius)
{
    __m256 at_x = _mm256_set1_ps(x), at_y = _mm256_set1_ps(y), limit = _mm256_set1_ps(radius * radius);
    uint64_t near = 0;
    for (int32_t j = 0; j < DRIVE_AGENTS; j += 8) {
        __m256 dx = _mm256_sub_ps(_mm256_loadu_ps(world->x + j), at_x), dy = _mm256_sub_ps(_mm256_loadu_ps(world->y + j), at_y);
        __m256 square = _mm256_add_ps(_mm256_mul_ps(dx, dx), _mm256_mul_ps(dy, dy));
        near |= (uint64_t)_mm256_movemask_ps(_mm256_cmp_ps(square, limit, _CMP_LE_OQ)) << j;
    }
    return near;
}

/* The lanes in `order` of eight floats, or eight numbers of 32 bits. */
#define DRIVE_PICK(from, order) _mm256_permutevar8x32_epi32(_mm256_loadu_si256((const __m256i *)(from)), order)

static DRIVE_NEW_CPU void drive_near_roads_avx2(const drive_eight *eights, const uint16_t *item, const uint16_t *end, float x, float y,
                                                float radius, int32_t enough, int packed, drive_roads *roads)
{
    __m256 at_x = _mm256_set1_ps(x), at_y = _mm256_set1_ps(y), limit = _mm256_set1_ps(radius * radius);
    int32_t count = 0;
    for (; item < end && count < enough; item++) {
        const drive_eight *eight = &eights[*item];
        __m256 dx = _mm256_sub_ps(_mm256_loadu_ps(eight->x), at_x), dy = _mm256_sub_ps(_mm256_loadu_ps(eight->y), at_y);
        __m256 square = _mm256_add_ps(_mm256_mul_ps(dx, dx), _mm256_mul_ps(dy, dy));
        uint32_t near = (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(square, limit, _CMP_LE_OQ));
        __m128i lanes = _mm_loadl_epi64((const __m128i *)drive_lanes[near]);
        __m256i order = _mm256_cvtepu8_epi32(lanes);
        _mm256_storeu_ps(roads->x + count, _mm256_permutevar8x32_ps(dx, order));
        _mm256_storeu_ps(roads->y + count, _mm256_permutevar8x32_ps(dy, order));
        _mm256_storeu_si256((__m256i *)(roads->heading + count), DRIVE_PICK(eight->heading, order));
        if (packed) {
            _mm256_storeu_si256((__m256i *)(roads->size + count), DRIVE_PICK(eight->size, order));
            _mm256_storeu_si256((__m256i *)(roads->rest + count), DRIVE_PICK(eight->rest, order));
        } else {
            _mm_storeu_si128((__m128i *)(roads->id + count), _mm_add_epi16(_mm_cvtepu8_epi16(lanes), _mm_set1_epi16((short)(*item * 8))));
        }
        count += __builtin_popcount(near);
    }
    roads->count = count;
}

/* Eight roads of three words each: x and y; half length and width; half height and heading. */
static DRIVE_NEW_CPU void drive_pack_roads_avx2(drive_roads *roads, float c, float s, float yaw, uint8_t *out, uint8_t *type)
{
    const __m256i types = _mm256_set1_epi32(0x0e0a0602); /* of the bytes of four numbers: the lower ones of their upper halves */
    for (int32_t k = 0; k < roads->count; k += 8, out += 8 * 2 * DRIVE_PACKED_ROAD) {
        drive_float8 x, y, turn;
        memcpy(&x, roads->x + k, sizeof x);
        memcpy(&y, roads->y + k, sizeof y);
        memcpy(&turn, roads->heading + k, sizeof turn);
        drive_eight_into_frame(&x, &y, &turn, c, s, yaw, 1);
        __m128i xs = _mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT), ys = _mm256_cvtps_ph((__m256)y, _MM_FROUND_TO_NEAREST_INT);
        __m256i turns = _mm256_cvtepu16_epi32(_mm256_cvtps_ph((__m256)turn, _MM_FROUND_TO_NEAREST_INT));
        __m256i rest = _mm256_loadu_si256((const __m256i *)(roads->rest + k));
        __m256 place = (__m256)_mm256_set_m128i(_mm_unpackhi_epi16(xs, ys), _mm_unpacklo_epi16(xs, ys));
        __m256 size = _mm256_loadu_ps((const float *)(roads->size + k)), last = (__m256)_mm256_blend_epi16(rest, _mm256_slli_epi32(turns, 16), 0xaa);
        /* words 0 to 3, 4 to 7 and 8 to 11 of four roads, in each half */
        __m256 front = _mm256_shuffle_ps(_mm256_unpacklo_ps(place, size), _mm256_unpacklo_ps(last, place), _MM_SHUFFLE(3, 0, 1, 0));
        __m256 middle = _mm256_shuffle_ps(_mm256_unpacklo_ps(size, last), _mm256_unpackhi_ps(place, size), _MM_SHUFFLE(1, 0, 3, 2));
        __m256 back = _mm256_shuffle_ps(_mm256_unpackhi_ps(last, place), _mm256_unpackhi_ps(size, last), _MM_SHUFFLE(3, 2, 3, 0));
        _mm256_storeu_ps((float *)out, _mm256_permute2f128_ps(front, middle, 0x20));
        _mm256_storeu_ps((float *)(out + 32), _mm256_permute2f128_ps(back, front, 0x30));
        _mm256_storeu_ps((float *)(out + 64), _mm256_permute2f128_ps(middle, back, 0x31));
        __m256i kinds = _mm256_shuffle_epi8(rest, types);
        _mm_storel_epi64((__m128i *)(type + k), _mm_unpacklo_epi32(_mm256_castsi256_si128(kinds), _mm256_extracti128_si256(kinds, 1)));
    }
}

static const drive_cpu drive_new_cpu = {drive_near_agents_avx2, drive_near_roads_avx2, drive_pack_roads_avx2, drive_halves_f16c};
#endif

DRIVE_PART void drive_write_ego(const drive_world *world, int32_t i, int normalised, float *out)
{
    const drive_scene *scene = world->scene;
    float dx = scene->goal_x[i] - world->x[i], dy = scene->goal_y[i] - world->y[i], c = world->cos[i], s = world->sin[i];
    float x = dx * c + dy * s, y = dy * c - dx * s;
    out[0] = normalised ? drive_normal_speed(world->speed[i]) : world->speed[i];
    out[1] = scene->seen_length[i];
    out[2] = scene->seen_width[i];
    out[3] = normalised ? DRIVE_NORMAL_POSITION(x) : x;
    out[4] = normalised ? DRIVE_NORMAL_POSITION(y) : y;
    out[5] = world->collided[i];
}

/* Everybody else within the radius, in slot order; returns how many. */
DRIVE_PART int32_t drive_write_partners(const drive_world *world, int32_t i, float radius, int normalised, const drive_cpu *cpu, float *out)
{
    const drive_scene *scene = world->scene;
    float x[DRIVE_AGENTS], y[DRIVE_AGENTS], heading[DRIVE_AGENTS], speed[DRIVE_AGENTS];
    uint8_t slot[DRIVE_AGENTS];
    uint64_t near = cpu->near_agents(world, world->x[i], world->y[i], radius);
    int32_t count = 0;
    for (near &= ~((uint64_t)1 << i) & (~(uint64_t)0 >> (DRIVE_AGENTS - scene->num_agents)); near; near &= near - 1) {
        int32_t j = __builtin_ctzll(near);
        slot[count] = (uint8_t)j;
        x[count] = world->x[j] - world->x[i];
        y[count] = world->y[j] - world->y[i];
        heading[count] = world->yaw[j];
        speed[count++] = world->speed[j];
    }
    drive_into_frame(x, y, heading, count, world->cos[i], world->sin[i], world->yaw[i], normalised);
    for (int32_t k = 0; k < count; k++, out += DRIVE_PARTNER) {
        out[0] = normalised ? drive_normal_speed(speed[k]) : speed[k];
        out[1] = x[k];
        out[2] = y[k];
        out[3] = heading[k];
        out[4] = scene->seen_length[slot[k]];
        out[5] = scene->seen_width[slot[k]];
    }
    return count;
}

/* Which 200 are left of all pushed through a max-heap in index order; decides between equally far ones. */
static void drive_mark_by_heap(const int32_t *square, int32_t count, uint8_t *keep)
{
    int32_t heap[DRIVE_ROADS], size = 0, at;
    memset(keep, 0, (size_t)count);
    for (int32_t k = 0; k < count; k++) {
        if (size < DRIVE_ROADS) {
            for (at = size++; at > 0 && square[heap[(at - 1) / 2]] < square[k]; at = (at - 1) / 2) heap[at] = heap[(at - 1) / 2];
        } else if (square[k] < square[heap[0]]) {
            for (at = 0;;) {
                int32_t child = 2 * at + 1;
                if (child >= size) break;
                if (child + 1 < size && square[heap[child + 1]] > square[heap[child]]) child++;
                if (square[heap[child]] <= square[k]) break;
                heap[at] = heap[child];
                at = child;
            }
        } else continue;
        heap[at] = k;
    }
    for (at = 0; at < size; at++) keep[heap[at]] = 1;
}

/* Keeps the 200 nearest segments, in index order (GPUDrive: the same ones, in heap order).  Squares of distances are never
 * negative, so that their bits are ordered as they are. */
DRIVE_PART void drive_keep_nearest(drive_roads *roads, float radius)
{
    int32_t square[DRIVE_SEGMENTS], low = 0, high, within = 0, count = roads->count, kept = 0;
    uint8_t keep[DRIVE_SEGMENTS];
    float limit = radius * radius;
    if (count <= DRIVE_ROADS) return;
    for (int32_t k = 0; k < count; k++) {
        float d = roads->x[k] * roads->x[k] + roads->y[k] * roads->y[k];
        memcpy(&square[k], &d, sizeof d);
    }
    memcpy(&high, &limit, sizeof limit);
    while (low < high && within != DRIVE_ROADS) { /* for a value that 200 of them do not exceed */
        int32_t middle = low + (high - low) / 2;
        within = 0;
        for (int32_t k = 0; k < count; k++) within += square[k] <= middle;
        if (within >= DRIVE_ROADS) high = middle;
        else low = middle + 1;
    }
    if (within == DRIVE_ROADS) for (int32_t k = 0; k < count; k++) keep[k] = square[k] <= high;
    else drive_mark_by_heap(square, count, keep);
    for (int32_t k = 0; k < count; k++) {
        roads->x[kept] = roads->x[k];
        roads->y[kept] = roads->y[k];
        roads->heading[kept] = roads->heading[k];
        roads->id[kept] = roads->id[k];
        roads->size[kept] = roads->size[k];
        roads->rest[kept] = roads->rest[k];
        kept += keep[k];
    }
    roads->count = kept;
}

/* The roads that an agent sees, from where it is, but not yet turned into its frame.  Those who are away see none, since the
 * grid ends where the roads do. */
DRIVE_PART void drive_see_roads(const drive_world *world, int32_t i, const drive_rules *rules, const drive_cpu *cpu, drive_roads *roads)
{
    const drive_scene *scene = world->scene;
    int linear = rules->road_algorithm == DRIVE_LINEAR;
    const uint16_t *end, *item = drive_grid_at(&scene->segments_near, world->x[i], world->y[i], &end);
    cpu->near_roads(scene->eights, item, end, world->x[i], world->y[i], rules->radius, linear ? DRIVE_ROADS : DRIVE_SEGMENTS,
                    rules->row.packed, roads);
    if (linear && roads->count > DRIVE_ROADS) roads->count = DRIVE_ROADS;
    if (!linear) drive_keep_nearest(roads, rules->radius);
}

static void drive_write_bev(const drive_world *world, int32_t i, float radius, float *out)
{
    uint8_t cells[DRIVE_BEV * DRIVE_BEV];
    drive_bev(world, i, radius, cells);
    for (int32_t k = 0; k < DRIVE_BEV * DRIVE_BEV; k++) out[k] = cells[k];
}

DRIVE_PART void drive_write_floats(const drive_world *world, int32_t i, const drive_rules *rules, int normalised, const drive_cpu *cpu, float *out)
{
    const drive_row *row = &rules->row;
    if (row->ego) {
        drive_write_ego(world, i, normalised, out);
        out += DRIVE_EGO;
    }
    if (row->weights) {
        memcpy(out, world->weights[i], sizeof world->weights[i]);
        out += DRIVE_WEIGHTS;
    }
    if (row->partners) {
        int32_t used = drive_write_partners(world, i, rules->radius, normalised, cpu, out) * DRIVE_PARTNER;
        memset(out + used, 0, (DRIVE_PARTNERS * DRIVE_PARTNER - used) * sizeof *out);
        out += DRIVE_PARTNERS * DRIVE_PARTNER;
    }
    if (row->roads) {
        drive_roads roads;
        drive_see_roads(world, i, rules, cpu, &roads);
        drive_into_frame(roads.x, roads.y, roads.heading, roads.count, world->cos[i], world->sin[i], world->yaw[i], normalised);
        for (int32_t k = 0; k < roads.count; k++, out += DRIVE_ROAD) {
            const float *row = world->scene->segments[roads.id[k]].row;
            drive_float4 front, middle;
            memcpy(&front, row, sizeof front);
            memcpy(&middle, row + 4, sizeof middle);
            front[0] = roads.x[k];
            front[1] = roads.y[k];
            middle[1] = roads.heading[k];
            memcpy(out, &front, sizeof front);
            memcpy(out + 4, &middle, sizeof middle);
            memcpy(out + 8, row + 8, (DRIVE_ROAD - 8) * sizeof *out);
        }
        size_t left = (size_t)(DRIVE_ROADS - roads.count) * DRIVE_ROAD;
        memcpy(out, rules->empty_roads, left * sizeof *out);
        out += left;
    }
    if (row->lidar) {
        drive_lidar(world, i, out);
        out += 3 * DRIVE_LIDAR * DRIVE_LIDAR_SAMPLE;
    }
    if (row->bev) drive_write_bev(world, i, rules->radius, out);
}

DRIVE_PART void drive_write_packed_roads(const drive_world *world, int32_t i, const drive_rules *rules, const drive_cpu *cpu, uint8_t *out)
{
    enum { bytes = 2 * DRIVE_PACKED_ROAD };
    uint8_t *type = out + DRIVE_ROADS * bytes;
    drive_roads roads;
    drive_see_roads(world, i, rules, cpu, &roads);
    cpu->pack_roads(&roads, world->cos[i], world->sin[i], world->yaw[i], out, type);
    memset(out + roads.count * bytes, 0, (size_t)(DRIVE_ROADS - roads.count) * bytes);
    memset(type + roads.count, DRIVE_NO_ROAD, (size_t)(DRIVE_ROADS - roads.count));
}

/* The same as float16, but types of roads, which are bytes behind all the rest.  What is written too much of one part is
 * written over by the next one. */
DRIVE_PART void drive_write_packed(const drive_world *world, int32_t i, const drive_rules *rules, const drive_cpu *cpu, uint8_t *out)
{
    float near[DRIVE_EGO + DRIVE_WEIGHTS + DRIVE_PARTNERS * DRIVE_PARTNER + 8];
    int32_t ego = DRIVE_EGO;
    drive_write_ego(world, i, 1, near);
    if (rules->row.weights) {
        memcpy(near + ego, world->weights[i], sizeof world->weights[i]);
        ego += DRIVE_WEIGHTS;
    }
    int32_t used = ego + drive_write_partners(world, i, rules->radius, 1, cpu, near + ego) * DRIVE_PARTNER;
    cpu->halves(near, used, (uint16_t *)out);
    memset(out + 2 * used, 0, 2 * (size_t)(ego + DRIVE_PARTNERS * DRIVE_PARTNER - used));
    drive_write_packed_roads(world, i, rules, cpu, out + 2 * (ego + DRIVE_PARTNERS * DRIVE_PARTNER));
}

DRIVE_PART void drive_write_row_for(const drive_world *world, int32_t i, const drive_rules *rules, const drive_cpu *cpu, void *out)
{
    if (rules->row.packed) drive_write_packed(world, i, rules, cpu, out);
    else if (rules->row.normalised) drive_write_floats(world, i, rules, 1, cpu, out);
    else drive_write_floats(world, i, rules, 0, cpu, out);
}

static void drive_write_row_portable(const drive_world *world, int32_t i, const drive_rules *rules, void *out)
{
    drive_write_row_for(world, i, rules, &drive_any_cpu, out);
}

#ifdef DRIVE_NEW_CPU
static DRIVE_NEW_CPU void drive_write_row_avx2(const drive_world *world, int32_t i, const drive_rules *rules, void *out)
{
    drive_write_row_for(world, i, rules, &drive_new_cpu, out);
}
#endif

/* The row of the agent in slot i: rules->row.nbytes bytes. */
static void drive_write_row(const drive_world *world, int32_t i, const drive_rules *rules, void *out)
{
#ifdef DRIVE_NEW_CPU
    if (drive_is_new_cpu()) {
        drive_write_row_avx2(world, i, rules, out);
        return;
    }
#endif
    drive_write_row_portable(world, i, rules, out);
}

static void drive_halves(const float *in, int32_t n, uint16_t *out)
{
#ifdef DRIVE_NEW_CPU
    if (drive_is_new_cpu()) {
        drive_halves_f16c(in, n, out);
        return;
    }
#endif
    drive_halves_portable(in, n, out);
}

#endif
