"""Ends a worker when its trainer has died.

A thread of the worker's that sleeps in poll(2) on the trainer's pidfd; it needs no GIL and no help from the env, so a
worker whose env hangs is ended too.  Better than PR_SET_PDEATHSIG, which fires when the *thread* that started the worker
ends, and which a worker of a fork server gets for the wrong process.
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
    #include <sys/syscall.h>
    #include <unistd.h>

    static int fv_pidfd(int pid)
    {
    #ifdef SYS_pidfd_open
        return (int)syscall(SYS_pidfd_open, pid, 0);
    #else
        errno = ENOSYS;
        return -1;
    #endif
    }

    typedef struct { int pid, pidfd; } fv_trainer;
    static fv_trainer fv_watched;

    static void *fv_watch(void *unused)
    {
        (void)unused;
        for (;;) {
            if (fv_watched.pidfd >= 0) {
                struct pollfd p = {fv_watched.pidfd, POLLIN, 0};
                if (poll(&p, 1, -1) > 0) break;
            } else { /* a kernel without pidfds (before 5.3) */
                if (kill(fv_watched.pid, 0) == -1 && errno == ESRCH) break;
                sleep(1);
            }
        }
        kill(getpid(), SIGKILL);
        return NULL;
    }

    static int fv_start_watch(int pid, int pidfd)
    {
        pthread_t thread;
        pthread_attr_t attr;
        sigset_t all, old;
        fv_watched.pid = pid;
        fv_watched.pidfd = pidfd;
        pthread_attr_init(&attr);
        pthread_attr_setstacksize(&attr, 64 * 1024);
        pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
        sigfillset(&all); /* signals are for the main thread */
        pthread_sigmask(SIG_SETMASK, &all, &old);
        int rc = pthread_create(&thread, &attr, fv_watch, NULL);
        pthread_sigmask(SIG_SETMASK, &old, NULL);
        pthread_attr_destroy(&attr);
        return rc;
    }
    """
    int fv_pidfd(int pid) nogil
    int fv_start_watch(int pid, int pidfd) nogil


def open_pidfd(int pid):
    """A descriptor that becomes readable when the process ends; -1 where the kernel has no such thing.

    Raises:
        OSError: there is no such process.
    """
    cdef int fd = fv_pidfd(pid)
    if fd < 0 and errno not in (_ENOSYS, _EPERM):
        raise OSError(errno, os.strerror(errno))
    return fd


def watch_trainer(int pid):
    """Kills this process as soon as process `pid` has ended.  Call once."""
    cdef int rc = fv_start_watch(pid, open_pidfd(pid))
    if rc:
        raise OSError(rc, f"cannot start the watchdog thread: {os.strerror(rc)}")


cdef int _ENOSYS = 38, _EPERM = 1
