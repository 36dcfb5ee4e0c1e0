/* control.h: the start of the arena: what it says of itself, the trainer's account, and where mailboxes and rings lie.
 *
 *     fv_control | fv_ready | fv_mailbox [units] | fv_ring [1 + units]: the trainer's, then the workers'
 *
 * A unit is a worker, or the envs in the trainer's own process (num_workers 0), which use mailbox and ring of unit 0 to say
 * what they are at; nobody waits there.  Processes that are no part of the run read all this (fastvec top, fastvec doctor
 * --dump); they map it without the right to write.  FV_LAYOUT changes whenever a struct or its meaning does.
 */
#ifndef FASTVEC_CONTROL_H
#define FASTVEC_CONTROL_H

#include <string.h>

#include "mailbox.h"
#include "trace.h"

#define FV_MAGIC 0x63657674736166ull /* "fastvec\0" */
#define FV_LAYOUT 1u

typedef struct fv_control {
    /* Written once, before anybody else maps the arena; `magic` last. */
    FV_LINES _Atomic uint64_t magic;
    uint32_t layout;
    uint32_t sizes[4]; /* of fv_control, fv_ready, fv_mailbox, fv_ring */
    int32_t trainer;   /* its process id */
    int32_t num_workers, num_units, envs_per_unit, rows_per_unit, units_per_batch, slots;
    int64_t made_ns; /* fv_now() */
    char version[24]; /* of fastvec; */
    char kind[64];    /* of the envs: both end with \0 */

    /* The trainer's account (VecEnv.stats says what it means).  Only the trainer writes it; relaxed, since each number
     * stands for itself. */
    FV_LINES _Atomic int64_t batches, rows; /* sent */
    _Atomic int64_t policy_ns, loop_ns, env_ns;
    _Atomic int64_t last_send, last_recv; /* fv_now() */
    _Atomic int64_t waiting_since;        /* fv_now(), while it waits for workers longer than a few looks; else 0 */
    _Atomic int64_t parks;                /* times it slept */
    _Atomic int64_t closed;               /* 1 from close() on */
} fv_control;

static inline fv_ready *fv_ready_of(fv_control *c) { return (fv_ready *)(c + 1); }
static inline fv_mailbox *fv_boxes_of(fv_control *c) { return (fv_mailbox *)(fv_ready_of(c) + 1); }
static inline fv_ring *fv_rings_of(fv_control *c, int num_units) { return (fv_ring *)(fv_boxes_of(c) + num_units); }

static inline size_t fv_control_nbytes(int num_units)
{
    size_t n = (size_t)num_units;
    return sizeof(fv_control) + sizeof(fv_ready) + n * sizeof(fv_mailbox) + (n + 1) * sizeof(fv_ring);
}

/* The rest has been written: readers may believe it. */
static inline void fv_introduce(fv_control *c)
{
    uint32_t sizes[4] = {sizeof(fv_control), sizeof(fv_ready), sizeof(fv_mailbox), sizeof(fv_ring)};
    memcpy(c->sizes, sizes, sizeof sizes);
    c->layout = FV_LAYOUT;
    atomic_store_explicit(&c->magic, FV_MAGIC, memory_order_release); /* pairs with fv_introduced */
}

/* Whether the trainer has introduced its arena. */
static inline int fv_introduced(const fv_control *c)
{
    return atomic_load_explicit(&c->magic, memory_order_acquire) == FV_MAGIC;
}

/* Whether this fastvec and the one that wrote the arena mean the same by it. */
static inline int fv_same_layout(const fv_control *c)
{
    uint32_t sizes[4] = {sizeof(fv_control), sizeof(fv_ready), sizeof(fv_mailbox), sizeof(fv_ring)};
    return c->layout == FV_LAYOUT && memcmp(c->sizes, sizes, sizeof sizes) == 0;
}

#endif
