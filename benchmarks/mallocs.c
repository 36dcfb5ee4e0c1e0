/* Counts heap allocations of a process and of those it forks, together.  For glibc; built and preloaded by handoff.py:
 * cc -O2 -shared -fPIC -o mallocs.so mallocs.c; LD_PRELOAD=./mallocs.so PYTHONMALLOC=malloc python ... */
#define _GNU_SOURCE
#include <stdatomic.h>
#include <stddef.h>
#include <sys/mman.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

static _Atomic long early, *counter = &early;

__attribute__((constructor)) static void begin(void)
{
    void *shared = mmap(NULL, sizeof *counter, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared != MAP_FAILED) counter = shared;
}

long count_of_mallocs(void) { return atomic_load(counter); }

void *malloc(size_t n) { atomic_fetch_add(counter, 1); return __libc_malloc(n); }
void *calloc(size_t n, size_t size) { atomic_fetch_add(counter, 1); return __libc_calloc(n, size); }
void *realloc(void *p, size_t n) { atomic_fetch_add(counter, 1); return __libc_realloc(p, n); }
void *memalign(size_t alignment, size_t n) { atomic_fetch_add(counter, 1); return __libc_memalign(alignment, n); }
void *aligned_alloc(size_t alignment, size_t n) { return memalign(alignment, n); }
int posix_memalign(void **p, size_t alignment, size_t n) { return (*p = memalign(alignment, n)) ? 0 : 12 /* ENOMEM */; }
