/* sync.h: how fastvec's processes wait for one another: spin, then yield, then park.
 *
 * A waiter looks at its condition, and between looks calls fv_wait_turn(), which spins or yields once, until that says
 * that it is time to sleep.  How long each stage lasts is a policy (fv_policy) plus what this waiter has learnt of its
 * own waits: see fastvec/waiting.py for how the policy is chosen from the machine.
 *
 * Sleeping is Dekker-style.  The word a waiter sleeps on says only "asleep or about to be" (1) or "awake" (0):
 *
 *     waiter                                   waker
 *     W1  asleep.store(1)                      K1  publish the event
 *     W2  look at the condition again          K2  asleep.load() == 1 ?
 *     W3  futex_wait(asleep, 1)                K3  asleep.exchange(0) == 1 ?
 *                                              K4  futex_wake(asleep)
 *
 * W1, W2, K1, K2 and K3 are all seq_cst, so they lie in one total order.  If W2 does not see K1's event then W2 < K1 in
 * it, hence W1 < K2: the waker sees the announcement and wakes.  If the exchange comes before W3, futex_wait finds 0 and
 * returns at once.  So no wake-up is lost, and a system call is made only when somebody sleeps.  (Orders on the
 * operations rather than fences: the same code on x86, and ThreadSanitizer understands it.)
 *
 * A waker killed between K3 and K4 wakes nobody: whoever waits for a process that may die must sleep with a time limit
 * and look at that process's life when it passes.
 */
#ifndef FASTVEC_SYNC_H
#define FASTVEC_SYNC_H

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

#if defined(__linux__) && !defined(FV_NO_FUTEX)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#define FV_HAVE_FUTEX 1
#else
#define FV_HAVE_FUTEX 0
#endif

#define FV_LINES _Alignas(128) /* two cache lines: adjacent-line prefetch makes neighbours share otherwise */

static inline void fv_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("isb");
#endif
}

/* Nanoseconds of CLOCK_MONOTONIC: one clock for all processes of a machine. */
static inline int64_t fv_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* ---- sleeping ---------------------------------------------------------------------------------------------------- */

enum { FV_WOKEN = 0, FV_TIMED_OUT = 1, FV_INTERRUPTED = 2 };

/* Sleeps while *word == 1, at most timeout_ns (< 0: no limit).  May return FV_WOKEN for no reason: look again. */
static inline int fv_sleep(_Atomic uint32_t *word, int64_t timeout_ns)
{
#if FV_HAVE_FUTEX
    struct timespec limit = {timeout_ns / 1000000000, timeout_ns % 1000000000};
    long rc = syscall(SYS_futex, (uint32_t *)word, FUTEX_WAIT, 1u, timeout_ns < 0 ? NULL : &limit, NULL, 0);
    if (rc == -1 && errno == ETIMEDOUT) return FV_TIMED_OUT;
    if (rc == -1 && errno == EINTR) return FV_INTERRUPTED;
    return FV_WOKEN;
#else
    /* No futex: look at the word between naps that grow to 1 ms.  Nothing can be lost, since nothing has to be sent. */
    int64_t nap = 20000, end = timeout_ns < 0 ? INT64_MAX : fv_now() + timeout_ns;
    while (atomic_load_explicit(word, memory_order_seq_cst) == 1) {
        struct timespec t = {0, nap};
        if (nanosleep(&t, NULL) == -1 && errno == EINTR) return FV_INTERRUPTED;
        if (fv_now() >= end) return FV_TIMED_OUT;
        if (nap < 1000000) nap *= 2;
    }
    return FV_WOKEN;
#endif
}

/* K2 to K4: wakes the waiter that sleeps on *word, if one does.  The event must have been published with seq_cst. */
static inline void fv_wake(_Atomic uint32_t *word)
{
    if (atomic_load_explicit(word, memory_order_seq_cst) == 0) return;
    if (atomic_exchange_explicit(word, 0, memory_order_seq_cst) == 0) return; /* another waker was first */
#if FV_HAVE_FUTEX
    syscall(SYS_futex, (uint32_t *)word, FUTEX_WAKE, 1, NULL, NULL, 0);
#endif
}

/* ---- waiting ----------------------------------------------------------------------------------------------------- */

typedef struct fv_policy {
    int64_t spin_ns;  /* spin at most this long; 0 where there is no CPU to spare */
    int64_t yields;   /* then yield at least this often, */
    int64_t yield_ns; /* and until the wait has lasted twice its running mean, but at most this long; then park */
} fv_policy;

typedef struct fv_waiter {
    fv_policy policy;
    int64_t mean_ns;     /* running mean of this waiter's waits */
    int64_t begun;       /* this wait: when it began, */
    int64_t spin_until;  /* when to stop spinning (0: it has stopped), */
    int64_t yield_until; /* when to stop yielding, */
    int64_t turns;       /* turns spun or yielded so far in this stage */
    int32_t spun;        /* whether this wait began with spinning; */
    int32_t doubt;       /* how often that was in vain of late, up to FV_NO_SPIN; */
    uint32_t unspun;     /* waits that did without since */
    int32_t park_only;   /* so many more waits are not to yield */
} fv_waiter;

enum {
    FV_MIN_SPIN_NS = 1000,
    FV_EAGER_LOOKS = 64,
    FV_NO_SPIN = 5,         /* each doubt halves the spinning, so many stop it, */
    FV_TRY_AGAIN = 64,      /* but for one wait in so many */
    FV_SLICE_NS = 1300000,  /* a yield that lasts so long gave the CPU to somebody who computes: dearer than a park, */
    FV_PARK_ONLY = 32,      /* so the next waits do without */
    FV_PARK_COST_NS = 50000,  /* what a park and a wake cost: waiting awake for less is a gain wherever there is room */
    FV_MEAN_LIMIT_NS = 10000000 /* one long pause (a learner's update) must not count for many short waits */
};

static inline int64_t fv_clamp(int64_t x, int64_t low, int64_t high) { return x < low ? low : x > high ? high : x; }

/* How long to spin at most.  There may be less room than the policy thinks (strangers on the CPUs, or the scheduler put
 * both sides on one): then each side spins while the other waits for that very CPU, and the means keep it so. */
static inline int64_t fv_spin_limit(fv_waiter *w)
{
    if (w->policy.spin_ns == 0) return 0;
    if (w->doubt == FV_NO_SPIN) return ++w->unspun % FV_TRY_AGAIN ? 0 : FV_MIN_SPIN_NS;
    return fv_clamp(w->policy.spin_ns >> w->doubt, FV_MIN_SPIN_NS, w->policy.spin_ns);
}

static inline void fv_wait_begin(fv_waiter *w, int64_t now)
{
    int64_t expected = 2 * w->mean_ns, patience = w->policy.yield_ns, spin = fv_spin_limit(w);
    w->begun = now;
    w->turns = 0;
    w->spun = spin != 0;
    w->spin_until = spin ? w->begun + fv_clamp(expected, FV_MIN_SPIN_NS, spin) : 0;
    /* A wait that will outlast our patience anyway is not worth more than the price of a park. */
    if (expected > patience) expected = FV_PARK_COST_NS;
    w->yield_until = patience ? w->begun + fv_clamp(expected, FV_PARK_COST_NS, patience) : 0;
}

/* Spins or yields once and returns 1, or returns 0: time to park. */
static inline int fv_wait_turn(fv_waiter *w)
{
    if (w->spin_until) {
        fv_pause();
        if ((++w->turns & 15) == 0 && fv_now() >= w->spin_until) w->spin_until = w->turns = 0;
        return 1;
    }
    if (w->park_only) return 0;
    int64_t began = fv_now();
    if (w->turns >= w->policy.yields && began >= w->yield_until) return 0;
    w->turns++;
    sched_yield();
    if (fv_now() - began > FV_SLICE_NS) w->park_only = FV_PARK_ONLY;
    return 1;
}

static inline void fv_wait_end(fv_waiter *w, int64_t now)
{
    if (w->park_only) w->park_only--;
    /* Spinning was in vain, yet the first yields ended the wait: the other side had waited for our CPU. */
    if (w->spun && !w->spin_until && w->turns <= 2) w->doubt += w->doubt < FV_NO_SPIN;
    else if (w->spin_until) w->doubt -= w->doubt > 0;
    w->mean_ns += (fv_clamp(now - w->begun, 0, FV_MEAN_LIMIT_NS) - w->mean_ns) / 8;
}

/* How often to look before giving up the GIL for a wait: giving it up and getting it back costs as much as a short one. */
static inline int fv_eager_looks(const fv_waiter *w)
{
    return w->policy.spin_ns && w->doubt < FV_NO_SPIN ? FV_EAGER_LOOKS : 1;
}

/* A wait that was over before it began. */
static inline void fv_wait_none(fv_waiter *w) { w->mean_ns -= w->mean_ns / 8; }

#endif
