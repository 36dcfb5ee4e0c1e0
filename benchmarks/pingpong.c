/* The floor of any handoff: two processes bounce a number between two cache lines, spinning.
 * usage: pingpong [rounds]; prints nanoseconds per round trip, once for each of 5 repetitions. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef struct {
    _Alignas(128) _Atomic uint32_t ping;
    _Alignas(128) _Atomic uint32_t pong;
} Table;

static void pause_(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

int main(int argc, char **argv)
{
    uint32_t rounds = argc > 1 ? (uint32_t)atoi(argv[1]) : 1000000, n = 0;
    Table *t = mmap(NULL, sizeof *t, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t child = fork();
    if (child == 0)
        for (uint32_t last = 0;;) {
            uint32_t x;
            while ((x = atomic_load_explicit(&t->ping, memory_order_acquire)) == last) pause_();
            atomic_store_explicit(&t->pong, last = x, memory_order_release);
        }
    for (int repetition = 0; repetition < 6; repetition++) { /* the first warms up */
        double began = now();
        for (uint32_t i = 0; i < rounds; i++) {
            atomic_store_explicit(&t->ping, ++n, memory_order_release);
            while (atomic_load_explicit(&t->pong, memory_order_acquire) != n) pause_();
        }
        if (repetition) printf("%.1f\n", (now() - began) / rounds);
    }
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    return 0;
}
