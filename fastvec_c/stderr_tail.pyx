"""Keeps the last of what a process writes to stderr, for whoever wants to know after its death.

stderr becomes a pipe, which a thread of the process itself copies to where stderr went before, and into a ring in a memory
file that the trainer holds too.  Why so: everything counts, also what C libraries write before they abort, so it must be the
descriptor and not `sys.stderr`; it goes on appearing at once; and nobody but the process itself is needed, so a trainer that is
busy or stopped blocks no worker.  The thread is C's: it works while an env keeps the GIL.  What a dying process leaves in the pipe the
trainer reads, which holds its other end (see fastvec/process.py).
"""
import os

from libc.errno cimport errno


cdef extern from *:
    """
    #include <errno.h>
    #include <poll.h>
    #include <pthread.h>
    #include <signal.h>
    #include <stdint.h>
    #include <sys/ioctl.h>
    #include <sys/mman.h>
    #include <time.h>
    #include <unistd.h>

    enum { FV_TAIL_BYTES = 8192, FV_MUCH = 16384 };

    /* In the memory file, from its beginning.  Written by the thread below alone; read when its process has ended. */
    typedef struct {
        uint64_t written; /* bytes, ever */
        char ring[FV_TAIL_BYTES];
    } fv_tail;

    static struct { int in, out; fv_tail *tail; } fv_copy;

    /* Waits for something to read, and then a little longer: last words are followed by death within microseconds, and what
     * was taken from the pipe but not put down by then would be lost.  Only one who writes much must not be kept waiting. */
    static void fv_await_output(void)
    {
        struct pollfd p = {fv_copy.in, POLLIN, 0};
        struct timespec ms = {0, 1000000};
        int there = 0;
        poll(&p, 1, -1);
        for (int i = 0; i < 20 && there < FV_MUCH; i++) {
            nanosleep(&ms, NULL);
            ioctl(fv_copy.in, FIONREAD, &there);
        }
    }

    static void *fv_copy_stderr(void *unused)
    {
        static char buffer[FV_MUCH];
        (void)unused;
        for (;;) {
            fv_await_output();
            ssize_t n = read(fv_copy.in, buffer, sizeof buffer);
            if (n == 0 || (n < 0 && errno != EINTR)) return NULL;
            for (ssize_t i = 0; i < n; i++) /* the ring first: the process may be about to end */
                fv_copy.tail->ring[fv_copy.tail->written++ % FV_TAIL_BYTES] = buffer[i];
            for (ssize_t at = 0; at < n;) {
                ssize_t put = write(fv_copy.out, buffer + at, (size_t)(n - at));
                if (put < 0 && errno != EINTR) break; /* stderr is closed or gone: its loss is the user's choice */
                if (put > 0) at += put;
            }
        }
    }

    static int fv_keep_tail(int in, int write_end, int file)
    {
        pthread_t thread;
        pthread_attr_t attr;
        sigset_t all, old;
        int rc;
        fv_copy.tail = mmap(NULL, sizeof(fv_tail), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (fv_copy.tail == MAP_FAILED) return errno;
        fv_copy.in = in;
        fv_copy.out = dup(2);
        if (fv_copy.out < 0) return 0; /* no stderr: nothing to keep */
        pthread_attr_init(&attr);
        pthread_attr_setstacksize(&attr, 64 * 1024);
        pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
        sigfillset(&all); /* signals are for the process's own threads */
        pthread_sigmask(SIG_SETMASK, &all, &old);
        rc = pthread_create(&thread, &attr, fv_copy_stderr, NULL);
        pthread_sigmask(SIG_SETMASK, &old, NULL);
        pthread_attr_destroy(&attr);
        if (rc == 0 && dup2(write_end, 2) < 0) rc = errno;
        return rc;
    }
    """
    int FV_TAIL_BYTES
    int fv_keep_tail(int in_, int write_end, int file) nogil

# Bytes at the beginning of the memory file that are the tail's.
SIZE = 8 + FV_TAIL_BYTES


def keep(int read_end, int write_end, int file):
    """From here on what this process writes to stderr passes through the pipe, and its last bytes lie in the memory file.

    Raises:
        OSError: the system refuses it.
    """
    cdef int rc = fv_keep_tail(read_end, write_end, file)
    if rc:
        raise OSError(rc, f"cannot keep the tail of stderr: {os.strerror(rc)}")
    os.close(write_end)


def kept(int file):
    """The bytes that the ring in the memory file holds, oldest first."""
    head = os.pread(file, SIZE, 0)
    written = int.from_bytes(head[:8], "little")
    ring = head[8:]
    at = written % FV_TAIL_BYTES
    return ring[:written] if written <= FV_TAIL_BYTES else ring[at:] + ring[:at]
