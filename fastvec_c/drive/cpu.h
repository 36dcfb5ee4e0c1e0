/* cpu.h: what the processor at hand can do that not all can. */
#ifndef FASTVEC_DRIVE_CPU_H
#define FASTVEC_DRIVE_CPU_H

#include <stdint.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
/* Of functions that are to be called where drive_is_new_cpu() only. */
#define DRIVE_NEW_CPU __attribute__((target("avx2,f16c,popcnt")))
#endif

/* Part of its callers, so that it is compiled for their processor, and for what is constant there. */
#define DRIVE_PART static inline __attribute__((always_inline))

/* Set by tests: do as on any processor. */
static int drive_portable;

static inline int drive_is_new_cpu(void)
{
#ifdef DRIVE_NEW_CPU
    return !drive_portable && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c");
#else
    return 0;
#endif
}

#endif
