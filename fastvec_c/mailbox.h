/* mailbox.h: the handoff between one trainer and its workers.
 *
 * trainer -> worker i: mailbox i.  The trainer writes the order's payload, then `cmd` (a number that differs from the
 * last one, with the order's kind in its low bits).  trainer <- workers: the ready set, one bit a worker.  A worker that
 * is done sets its bit with a single read-modify-write; the trainer takes all bits of a word at once.
 *
 * Ownership of worker i's rows, and of the payload in its mailbox:
 *     the trainer's  from the moment it took bit i until it next writes cmd i,
 *     the worker's   from the moment it saw cmd i change until it sets bit i.
 * cmd's store (release) pairs with the worker's load (acquire), the bit's fetch_or (release) with the trainer's
 * exchange (acquire); both are seq_cst because sleeping needs that too (sync.h).  The trainer gives no second order
 * before it took the bit of the first, so a bit never stands for two orders.  FV_CLOSE is the exception: it may be
 * written at any time, carries no payload, and is the last order; a worker that is busy sees it when it looks next.
 *
 * A worker that died is replaced only once its pidfd says that the old process has ended, and after the trainer has taken
 * all bits: from then on nobody but the trainer writes to the mailbox, the bits and the rows.  If the order is still open,
 * it is overwritten by a RESET, which the new process finds when it comes: it has seen no cmd yet, and no cmd is 0.
 *
 * Why a set and not a queue: a worker killed between reserving a queue's place and filling it would leave a hole that
 * looks like a slow worker.  Setting a bit is one instruction: it has happened or it has not.
 */
#ifndef FASTVEC_MAILBOX_H
#define FASTVEC_MAILBOX_H

#include <stddef.h>

#include "sync.h"
#include "trace.h"

#define FV_MAX_WORKERS 1024

/* Orders. */
enum { FV_STEP = 1, FV_RESET = 2, FV_CALL = 3, FV_CLOSE = 4, FV_ORDER_BITS = 3 };

typedef struct fv_mailbox {
    /* Written by the trainer. */
    FV_LINES _Atomic uint32_t cmd; /* count << FV_ORDER_BITS | order */
    _Atomic uint32_t asleep;       /* the worker's: sync.h */
    int32_t slot;                  /* payload: the slot to write, */
    int32_t action_slot;           /* the slot whose actions to take, */
    int32_t has_options;           /* whether reset options wait on the pipe */
    /* For whoever wants to know, here and below: relaxed, since each number stands for itself. */
    _Atomic int32_t pid;       /* of the worker, */
    _Atomic int32_t restarts;  /* processes before it that died; */
    _Atomic int64_t posted_ns; /* when cmd was written; */
    _Atomic int64_t takes;     /* announcements whose way to the trainer was timed (a sample), */
    _Atomic int64_t take_ns;   /* and how long they were on it */

    /* Written by the worker.  The trainer looks seldom, so that these lines stay with the worker. */
    FV_LINES _Atomic int64_t steps; /* STEP orders done, */
    _Atomic int64_t busy_ns;        /* time spent in them; */
    _Atomic int64_t wait_ns;        /* time spent waiting for orders, */
    _Atomic int64_t pickups;        /* orders that it waited for, */
    _Atomic int64_t pickup_ns;      /* time from posted_ns until it saw them; */
    _Atomic int64_t began_ns;       /* when the last order began, */
    _Atomic int64_t done_ns;        /* when the last one finished was; */
    _Atomic uint32_t taken_up;      /* cmd of the last order begun, */
    _Atomic uint32_t finished;      /* of the last one finished; */
    _Atomic int64_t parks;          /* times it slept; */
    int32_t current;                /* which of its envs is at work: read when the worker has died or announced */
} fv_mailbox;

typedef struct fv_ready {
    struct {
        _Atomic uint64_t done;     /* bit i: worker i has finished its order */
        _Atomic uint64_t messages; /* bit i: and a pickled message follows on its pipe */
    } FV_LINES words[FV_MAX_WORKERS / 64];
    FV_LINES _Atomic uint32_t asleep; /* the trainer's: sync.h */
} fv_ready;

/* Adds to a counter that only the caller writes. */
static inline void fv_count(_Atomic int64_t *counter, int64_t n)
{
    int64_t old = atomic_load_explicit(counter, memory_order_relaxed);
    atomic_store_explicit(counter, old + n, memory_order_relaxed);
}

static inline int64_t fv_counted(const _Atomic int64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

static inline void fv_note(_Atomic int64_t *word, int64_t value)
{
    atomic_store_explicit(word, value, memory_order_relaxed);
}

/* Says who the worker is, and how many came before it. */
static inline void fv_set_process(fv_mailbox *m, int32_t pid, int32_t restarts)
{
    atomic_store_explicit(&m->pid, pid, memory_order_relaxed);
    atomic_store_explicit(&m->restarts, restarts, memory_order_relaxed);
}

/* The words of mailbox i as somebody from outside sees them: each for itself, for they change meanwhile. */
typedef struct fv_words {
    uint32_t cmd, asleep, taken_up, finished;
    int32_t pid, restarts, current, announced;
} fv_words;

static inline fv_words fv_look(const fv_ready *r, const fv_mailbox *m, int i)
{
    return (fv_words){
        .cmd = atomic_load_explicit(&m->cmd, memory_order_relaxed),
        .asleep = atomic_load_explicit(&m->asleep, memory_order_relaxed),
        .taken_up = atomic_load_explicit(&m->taken_up, memory_order_relaxed),
        .finished = atomic_load_explicit(&m->finished, memory_order_relaxed),
        .pid = atomic_load_explicit(&m->pid, memory_order_relaxed),
        .restarts = atomic_load_explicit(&m->restarts, memory_order_relaxed),
        .current = *(const volatile int32_t *)&m->current,
        .announced = (int32_t)(atomic_load_explicit(&r->words[i / 64].done, memory_order_relaxed) >> (i % 64) & 1),
    };
}

static inline int fv_trainer_asleep(const fv_ready *r) { return (int)atomic_load_explicit(&r->asleep, memory_order_relaxed); }

/* ---- the trainer's side ------------------------------------------------------------------------------------------ */

/* The cmd that comes next. */
static inline uint32_t fv_next_cmd(fv_mailbox *m, uint32_t order)
{
    uint32_t cmd = atomic_load_explicit(&m->cmd, memory_order_relaxed); /* only the trainer writes it */
    return (((cmd >> FV_ORDER_BITS) + 1) << FV_ORDER_BITS) | order;
}

/* Gives worker m an order, at `now`; returns its cmd.  Its payload has been written. */
static inline uint32_t fv_post(fv_mailbox *m, uint32_t order, int64_t now)
{
    uint32_t cmd = fv_next_cmd(m, order);
    fv_note(&m->posted_ns, now);
    atomic_store_explicit(&m->cmd, cmd, memory_order_seq_cst); /* release: hands the rows over; K1 of sync.h */
    fv_wake(&m->asleep);
    return cmd;
}

/* Notes in mailbox m that the envs of this very process begin an order, which nobody waits for; returns its cmd. */
static inline uint32_t fv_begin_here(fv_mailbox *m, uint32_t order, int64_t now, fv_ring *ring)
{
    uint32_t cmd = fv_next_cmd(m, order);
    fv_note(&m->posted_ns, now);
    atomic_store_explicit(&m->cmd, cmd, memory_order_relaxed);
    fv_note(&m->began_ns, now);
    atomic_store_explicit(&m->taken_up, cmd, memory_order_relaxed);
    fv_trace(ring, FV_TAKEN_UP, now, cmd, 0, m->slot);
    return cmd;
}

/* Takes all bits of word k; *messages gets those of the workers that have a message. */
static inline uint64_t fv_take(fv_ready *r, int k, uint64_t *messages)
{
    /* Looks before it takes: waiting on a shared line costs nothing, taking it over from the workers does.
     * seq_cst: this is also the second look of sync.h's W2. */
    if (atomic_load_explicit(&r->words[k].done, memory_order_seq_cst) == 0) return 0;
    /* acquire: the rows are ours, and we see the message bits that were set before these */
    uint64_t done = atomic_exchange_explicit(&r->words[k].done, 0, memory_order_seq_cst);
    *messages = atomic_load_explicit(&r->words[k].messages, memory_order_relaxed) & done;
    if (*messages) atomic_fetch_and_explicit(&r->words[k].messages, ~*messages, memory_order_relaxed);
    return done;
}

/* Forgets the message that worker i, now dead, announced without being done: the next one's bit would claim it. */
static inline void fv_forget_message(fv_ready *r, int i)
{
    /* relaxed: its writer has ended, and the next one has not started */
    atomic_fetch_and_explicit(&r->words[i / 64].messages, ~((uint64_t)1 << (i % 64)), memory_order_relaxed);
}

static inline int fv_any_ready(fv_ready *r, int num_words)
{
    for (int k = 0; k < num_words; k++)
        if (atomic_load_explicit(&r->words[k].done, memory_order_seq_cst)) return 1;
    return 0;
}

/* The trainer sleeps until a bit is set, for timeout_ns at most. */
static inline int fv_park_trainer(fv_ready *r, int num_words, int64_t timeout_ns)
{
    int rc = FV_WOKEN;
    atomic_store_explicit(&r->asleep, 1, memory_order_seq_cst); /* W1 */
    if (!fv_any_ready(r, num_words)) rc = fv_sleep(&r->asleep, timeout_ns);
    atomic_store_explicit(&r->asleep, 0, memory_order_seq_cst);
    return rc;
}

/* ---- the worker's side ------------------------------------------------------------------------------------------- */

/* Notes that order `cmd` begins.  `now` is older than the order if that was there before we looked. */
static inline int64_t fv_take_up(fv_mailbox *m, uint32_t cmd, int64_t now)
{
    int64_t posted = fv_counted(&m->posted_ns);
    if (now > posted) {
        fv_count(&m->pickups, 1);
        fv_count(&m->pickup_ns, now - posted);
    } else {
        now = posted;
    }
    fv_note(&m->began_ns, now);
    atomic_store_explicit(&m->taken_up, cmd, memory_order_relaxed);
    return now;
}

/* Waits for an order other than *last, stores it there and returns its kind.  *now: the time, before and after.
 * `ring` is that of worker i. */
static inline uint32_t fv_await_order(fv_mailbox *m, uint32_t *last, fv_waiter *w, int64_t *now, fv_ring *ring, int i)
{
    uint32_t cmd = atomic_load_explicit(&m->cmd, memory_order_acquire);
    if (cmd == *last) {
        fv_wait_begin(w, *now);
        while ((cmd = atomic_load_explicit(&m->cmd, memory_order_acquire)) == *last) {
            if (fv_wait_turn(w)) continue;
            atomic_store_explicit(&m->asleep, 1, memory_order_seq_cst);         /* W1 */
            if (atomic_load_explicit(&m->cmd, memory_order_seq_cst) == *last) { /* W2 */
                fv_count(&m->parks, 1);
                fv_trace_sleep(ring, fv_now(), *last, i);
                /* No time limit: if the trainer dies, the watchdog thread ends this process. */
                fv_sleep(&m->asleep, -1);
            }
            atomic_store_explicit(&m->asleep, 0, memory_order_seq_cst);
        }
        *now = fv_now();
        fv_wait_end(w, *now);
        fv_count(&m->wait_ns, *now - w->begun);
    } else {
        fv_wait_none(w);
    }
    *last = cmd;
    fv_trace(ring, FV_TAKEN_UP, fv_take_up(m, cmd, *now), cmd, i, m->slot);
    return cmd & ((1u << FV_ORDER_BITS) - 1);
}

/* Whether a few looks find an order other than `last`, which fv_await_order then returns at once.  *now: as there. */
static inline int fv_look_for_order(fv_mailbox *m, uint32_t last, const fv_waiter *w, int64_t *now)
{
    int64_t began = *now;
    for (int looks = fv_eager_looks(w); looks; looks--) {
        if (atomic_load_explicit(&m->cmd, memory_order_acquire) != last) {
            *now = fv_now();
            fv_count(&m->wait_ns, *now - began);
            return 1;
        }
        fv_pause();
    }
    return 0;
}

/* A step took from `began` to `now`. */
static inline void fv_account(fv_mailbox *m, int64_t began, int64_t now)
{
    fv_count(&m->steps, 1);
    fv_count(&m->busy_ns, now - began);
}

/* Notes that order `cmd` has ended at `now`.  Comes before the announcement, which gives the trainer the right to go on. */
static inline void fv_finish(fv_mailbox *m, uint32_t cmd, int64_t now, fv_ring *ring, int i)
{
    fv_note(&m->done_ns, now);
    atomic_store_explicit(&m->finished, cmd, memory_order_relaxed);
    fv_trace(ring, FV_FINISHED, now, cmd, i, m->slot);
}

/* How long the last order took: of a worker that has announced it. */
static inline int64_t fv_order_ns(const fv_mailbox *m) { return fv_counted(&m->done_ns) - fv_counted(&m->began_ns); }

/* Worker i is done: its rows go to the trainer.  With `message`, something follows on the pipe. */
static inline void fv_announce(fv_ready *r, int i, int message)
{
    uint64_t bit = (uint64_t)1 << (i % 64);
    /* relaxed: published by the bit below */
    if (message) atomic_fetch_or_explicit(&r->words[i / 64].messages, bit, memory_order_relaxed);
    /* release: hands the rows over; K1 of sync.h */
    atomic_fetch_or_explicit(&r->words[i / 64].done, bit, memory_order_seq_cst);
    fv_wake(&r->asleep);
}

#endif
