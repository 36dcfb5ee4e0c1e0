/* Stress of trace.h: one thread writes events as fast as it can, others read the ring.
 *
 * usage: trace_stress READS SEED
 *
 * Each event's parts follow from its number, and the reader is told the number of the first: an event that is torn, stale or
 * misplaced is a wrong number, and under ThreadSanitizer a missing order is a reported race.  The writer rests now and then,
 * at any place, as one does that is killed between two stores; a ring that stands still must give all its events but the one
 * that could be in the making.  Exits 0, or says what was wrong.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "trace.h"

enum { READERS = 2 };

static fv_ring ring;
static atomic_int stop;
static long reads;

static uint64_t mixed(uint64_t x)
{
    x ^= x >> 31;
    x *= 0x9E3779B97F4A7C15u;
    return x ^ x >> 29;
}

static void *writer_main(void *arg)
{
    unsigned rng = (unsigned)(uintptr_t)arg;
    for (uint64_t n = 0; !atomic_load(&stop); n++) {
        uint64_t x = mixed(n);
        fv_trace(&ring, (int)(x % 63), (int64_t)x, (uint32_t)(x >> 20), (int)(x % 1024), (int)(x % 65536));
        if (rand_r(&rng) % 20000 == 0) {
            struct timespec t = {0, 200000};
            nanosleep(&t, NULL);
        }
    }
    return NULL;
}

static int wrong(const fv_seen *s, uint64_t n)
{
    uint64_t x = mixed(n);
    return s->ns != (int64_t)x || s->kind != (int)(x % 63) || s->cmd != (uint32_t)(x >> 20) || s->worker != (int)(x % 1024) ||
           s->slot != (int)(x % 65536);
}

/* Whether all events that a ring holds are what they should be; *seen: counts them. */
static int read_once(uint64_t *last, long *seen)
{
    static _Thread_local fv_seen out[FV_EVENTS];
    uint64_t first;
    int count = fv_read_ring(&ring, out, &first);
    for (int i = 0; i < count; i++)
        if (wrong(&out[i], first + (uint64_t)i)) return fprintf(stderr, "event %lu is not what was written\n", first + (uint64_t)i), 0;
    if (count && first + (uint64_t)count < *last) return fprintf(stderr, "the ring went back\n"), 0;
    if (count) *last = first + (uint64_t)count;
    *seen += count;
    return 1;
}

static void *reader_main(void *result)
{
    uint64_t last = 0;
    for (long i = 0; i < reads; i++)
        if (!read_once(&last, result)) exit(1);
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc != 3) return fprintf(stderr, "usage: trace_stress READS SEED\n"), 2;
    pthread_t writer, readers[READERS];
    long seen[READERS] = {0}, rest = 0;
    uint64_t last = 0;
    reads = atol(argv[1]);
    pthread_create(&writer, NULL, writer_main, (void *)(uintptr_t)atoi(argv[2]));
    while (atomic_load(&ring.written) < FV_EVENTS) sched_yield(); /* from here on there is always something to read */
    for (int i = 0; i < READERS; i++) pthread_create(&readers[i], NULL, reader_main, &seen[i]);
    for (int i = 0; i < READERS; i++) pthread_join(readers[i], NULL);
    atomic_store(&stop, 1);
    pthread_join(writer, NULL);
    if (!read_once(&last, &rest)) return 1;
    if (last != ring.written) return fprintf(stderr, "the last events are missing\n"), 1;
    if (rest != FV_EVENTS - 1) return fprintf(stderr, "%ld events of a ring that stands still\n", rest), 1;
    printf("%lu events written, %ld read: ok\n", ring.written, seen[0] + seen[1]);
    return 0;
}
