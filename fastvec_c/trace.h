/* trace.h: what a process did last with the handoff, for whoever looks from outside (fastvec doctor --dump PID).
 *
 * A ring of events in the arena for the trainer and one for each worker.  Only its process writes a ring, so that an event
 * costs three stores and no read-modify-write; a reader in another process writes nothing, and finds out by itself which
 * events were overwritten while it read (a seqlock, with the counter for its version):
 *
 *     writer, event n                                  reader
 *     T1  words of place n % FV_EVENTS: store          R1  end = written: events below it are whole, if still there
 *     T2  written = n + 1                              R2  the words
 *                                                      R3  now = written: events up to now - FV_EVENTS are not trusted
 *
 * T2 (release) pairs with R1 (acquire): the words of every event below `end` had been stored.  T1 (release) pairs with R2
 * (acquire): if R2 finds a word of event n, which overwrote event n - FV_EVENTS, then n - 1's T2 came before, and R3 finds
 * n or more: so what may be mixed is always thrown away.  A writer killed between T1 and T2 leaves that one place torn, and
 * `written` says which: its next event's, where the reader expects event written - FV_EVENTS, which it does not trust.
 * The process that takes a dead one's place goes on where the ring ends.
 */
#ifndef FASTVEC_TRACE_H
#define FASTVEC_TRACE_H

#include "sync.h"

enum {
    FV_EVENTS = 512, /* of a ring: a power of two */

    /* What happened.  In the trainer's ring: */
    FV_SENT = 1,     /* gave a worker order `cmd` */
    FV_RECEIVED = 2, /* handed out a batch of `cmd` workers, this the first */
    FV_DIED = 3,     /* found a worker dead, */
    FV_REPLACED = 4, /* put a new process in its place, */
    FV_DROPPED = 5,  /* or none */
    FV_LATE = 6,     /* a time limit passed */
    /* In a worker's: */
    FV_TAKEN_UP = 7, /* began order `cmd` */
    FV_FINISHED = 8, /* ended it; the announcement follows */
    /* In either: */
    FV_PARKED = 9 /* goes to sleep */
};

typedef struct fv_event {
    _Atomic int64_t ns;    /* fv_now() */
    _Atomic uint64_t what; /* cmd << 32 | slot << 16 | worker << 6 | kind */
} fv_event;

typedef struct fv_ring {
    FV_LINES _Atomic uint64_t written; /* events so far */
    fv_event events[FV_EVENTS];
} fv_ring;

/* An event as it was read. */
typedef struct fv_seen {
    int64_t ns;
    int32_t kind, worker, slot;
    uint32_t cmd;
} fv_seen;

/* Writes an event.  Slots above 65535 are written as 65535. */
static inline void fv_trace(fv_ring *r, int kind, int64_t ns, uint32_t cmd, int worker, int slot)
{
    uint64_t n = atomic_load_explicit(&r->written, memory_order_relaxed); /* only we write it */
    uint64_t low = (uint64_t)(slot > 0xFFFF ? 0xFFFF : slot) << 16 | (uint64_t)worker << 6 | (uint64_t)kind;
    fv_event *e = &r->events[n % FV_EVENTS];
    atomic_store_explicit(&e->ns, ns, memory_order_release); /* T1 */
    atomic_store_explicit(&e->what, (uint64_t)cmd << 32 | low, memory_order_release);
    atomic_store_explicit(&r->written, n + 1, memory_order_release); /* T2 */
}

/* Writes that the owner goes to sleep, unless it has done nothing else since the last time: a long wait, in naps, would
 * leave nothing of what came before. */
static inline void fv_trace_sleep(fv_ring *r, int64_t ns, uint32_t cmd, int worker)
{
    uint64_t n = atomic_load_explicit(&r->written, memory_order_relaxed);
    const fv_event *last = &r->events[(n - 1) % FV_EVENTS];
    if (n && (atomic_load_explicit(&last->what, memory_order_relaxed) & 0x3F) == FV_PARKED) return;
    fv_trace(r, FV_PARKED, ns, cmd, worker, 0);
}

/* Copies the events that a ring holds to out[FV_EVENTS], oldest first, and returns how many; *first: the number of the
 * oldest. */
static inline int fv_read_ring(const fv_ring *r, fv_seen *out, uint64_t *first)
{
    uint64_t end = atomic_load_explicit(&r->written, memory_order_acquire); /* R1 */
    uint64_t begin = end > FV_EVENTS ? end - FV_EVENTS : 0;
    int count = (int)(end - begin), lost;
    for (uint64_t n = begin; n < end; n++) {
        const fv_event *e = &r->events[n % FV_EVENTS];
        fv_seen *s = &out[n - begin];
        s->ns = atomic_load_explicit(&e->ns, memory_order_acquire); /* R2 */
        uint64_t what = atomic_load_explicit(&e->what, memory_order_acquire);
        s->cmd = (uint32_t)(what >> 32);
        s->slot = (int32_t)(what >> 16 & 0xFFFF);
        s->worker = (int32_t)(what >> 6 & 0x3FF);
        s->kind = (int32_t)(what & 0x3F);
    }
    uint64_t now = atomic_load_explicit(&r->written, memory_order_acquire); /* R3 */
    uint64_t whole = now >= FV_EVENTS ? now - FV_EVENTS + 1 : 0;
    *first = whole > begin ? whole : begin;
    if (*first >= end) return 0;
    lost = (int)(*first - begin);
    for (int i = lost; i < count; i++) out[i - lost] = out[i];
    return count - lost;
}

#endif
