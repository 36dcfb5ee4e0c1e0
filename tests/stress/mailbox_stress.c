/* Stress of mailbox.h and sync.h: one trainer thread, many worker threads, rows in plain memory.
 *
 * usage: mailbox_stress WORKERS ROUNDS POLICY SEED     POLICY: 0 spin, 1 yield, 2 park, 3 each thread its own
 *
 * Every row is written by its worker and read by the trainer without any atomic: under ThreadSanitizer a missing order
 * in the handoff is a reported race, and in any build a lost or repeated order is a wrong number.  The trainer takes
 * batches of random size, answers them in random order, and now and then lets all workers fall asleep.  Exits 0, or
 * says what was wrong.  A lost wake-up shows as a hang: the trainer gives up after 20 s without a bit.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mailbox.h"

enum { ROW = 24, MAX = 128 };

static fv_mailbox *boxes;
static fv_ready *ready_set;
static fv_ring rings[MAX];
static uint64_t actions[MAX][ROW], observations[MAX][ROW]; /* plain memory, handed over by the protocol alone */
static int policy_kind;

static fv_policy policy_of(unsigned kind)
{
    switch (kind % 3) {
    case 0: return (fv_policy){.spin_ns = 20000, .yields = 5, .yield_ns = 100000};
    case 1: return (fv_policy){.yields = 3};
    default: return (fv_policy){0};
    }
}

static uint64_t mixed(uint64_t x)
{
    x ^= x >> 31;
    x *= 0x9E3779B97F4A7C15u;
    return x ^ x >> 29;
}

static void *worker_main(void *arg)
{
    int i = (int)(intptr_t)arg;
    fv_mailbox *m = &boxes[i];
    fv_waiter w = {.policy = policy_of(policy_kind == 3 ? (unsigned)i : (unsigned)policy_kind)};
    uint32_t last = 0;
    int64_t now = fv_now();
    for (;;) {
        uint32_t order = fv_await_order(m, &last, &w, &now, &rings[i], i);
        if (order == FV_CLOSE) return NULL;
        if (m->slot != m->action_slot + 1) abort();
        for (int k = 0; k < ROW; k++) observations[i][k] = mixed(actions[i][k] + (uint64_t)k);
        int64_t began = now;
        now = fv_now();
        if (order == FV_STEP) fv_account(m, began, now);
        fv_finish(m, last, now, &rings[i], i);
        fv_announce(ready_set, i, order == FV_RESET);
    }
}

static void give(int i, uint64_t *sent, unsigned *rng)
{
    sent[i] = mixed(sent[i] + 1);
    for (int k = 0; k < ROW; k++) actions[i][k] = sent[i];
    boxes[i].action_slot = (int32_t)(sent[i] & 0xFFFF);
    boxes[i].slot = boxes[i].action_slot + 1;
    fv_post(&boxes[i], rand_r(rng) % 8 ? FV_STEP : FV_RESET, fv_now());
}

int main(int argc, char **argv)
{
    if (argc != 5) return fprintf(stderr, "usage: mailbox_stress WORKERS ROUNDS POLICY SEED\n"), 2;
    int n = atoi(argv[1]), words = (n + 63) / 64;
    long rounds = atol(argv[2]), taken = 0;
    policy_kind = atoi(argv[3]);
    unsigned rng = (unsigned)atoi(argv[4]);
    pthread_t threads[MAX];
    uint64_t sent[MAX];
    int idle[MAX], num_idle = 0, is_idle[MAX] = {0};
    fv_waiter w = {.policy = policy_of((unsigned)policy_kind)};
    boxes = aligned_alloc(128, sizeof(fv_mailbox) * (size_t)n);
    ready_set = aligned_alloc(128, sizeof(fv_ready));
    memset(boxes, 0, sizeof(fv_mailbox) * (size_t)n);
    memset(ready_set, 0, sizeof(fv_ready));
    for (int i = 0; i < n; i++) {
        sent[i] = (uint64_t)i;
        idle[num_idle++] = i;
        is_idle[i] = 1;
        pthread_create(&threads[i], NULL, worker_main, (void *)(intptr_t)i);
    }
    while (taken < rounds) {
        /* Order some of the idle workers about, in random order; all of them if none is at work. */
        int at_work = n - num_idle, order = num_idle ? (int)(rand_r(&rng) % (unsigned)num_idle) + 1 : 0;
        if (rand_r(&rng) % 500 == 0) {
            struct timespec t = {0, 300000}; /* long enough for everybody to fall asleep */
            nanosleep(&t, NULL);
        }
        while (order-- > 0 || at_work == 0) {
            int pick = (int)(rand_r(&rng) % (unsigned)num_idle), i = idle[pick];
            idle[pick] = idle[--num_idle];
            is_idle[i] = 0;
            at_work++;
            give(i, sent, &rng);
        }
        int64_t began = fv_now();
        int got = 0;
        fv_wait_begin(&w, began);
        for (;;) {
            for (int k = 0; k < words; k++) {
                uint64_t messages = 0, done = fv_take(ready_set, k, &messages);
                if (messages & ~done) return fprintf(stderr, "a message without its bit\n"), 1;
                for (; done; done &= done - 1) {
                    int i = 64 * k + __builtin_ctzll(done);
                    if (is_idle[i]) return fprintf(stderr, "worker %d announced itself twice\n", i), 1;
                    for (int r = 0; r < ROW; r++)
                        if (observations[i][r] != mixed(sent[i] + (uint64_t)r))
                            return fprintf(stderr, "worker %d: row %d is not that of its last order\n", i, r), 1;
                    idle[num_idle++] = i;
                    is_idle[i] = 1;
                    got++;
                }
            }
            if (got) break;
            if (fv_wait_turn(&w)) continue;
            fv_park_trainer(ready_set, words, 100000000);
            if (fv_now() - began > 20000000000) return fprintf(stderr, "no bit for 20 s: a wake-up was lost\n"), 1;
        }
        fv_wait_end(&w, fv_now());
        taken += got;
    }
    for (int i = 0; i < n; i++) fv_post(&boxes[i], FV_CLOSE, fv_now());
    for (int i = 0; i < n; i++) pthread_join(threads[i], NULL);
    printf("%d workers, %ld orders, policy %d, seed %u: ok\n", n, taken, policy_kind, (unsigned)atoi(argv[4]));
    return 0;
}
