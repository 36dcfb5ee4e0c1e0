"""One block of memory that the trainer and its workers share: an anonymous memory file, mapped.

The file has no name, so nothing is left in /dev/shm however a run ends: the kernel frees it with its last mapping and
descriptor.  It is sealed against resizing, so no process can make another fault by truncating it.

A mapping lives as long as its Arena object, and every view keeps that object alive: a view may be read after the pool
has been closed, it only holds on to the memory.
"""
import os

import numpy as np
from cpython.buffer cimport PyBuffer_FillInfo
from libc.errno cimport errno


cdef extern from *:
    """
    #include <fcntl.h>
    #include <stdio.h>
    #include <sys/mman.h>
    #include <unistd.h>

    #ifdef __linux__
    static int fv_memory_file(const char *name, size_t nbytes)
    {
        int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (fd < 0) return -1;
        if (ftruncate(fd, (off_t)nbytes) < 0) { close(fd); return -1; }
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL); /* a help, not a need: result ignored */
        return fd;
    }
    #else
    /* No memfd: a POSIX shared-memory object whose name is gone before anybody can see it. */
    static int fv_memory_file(const char *name, size_t nbytes)
    {
        char unique[64];
        snprintf(unique, sizeof unique, "/%.16s-%ld", name, (long)getpid());
        int fd = shm_open(unique, O_RDWR | O_CREAT | O_EXCL, 0600);
        if (fd < 0) return -1;
        shm_unlink(unique);
        fcntl(fd, F_SETFD, FD_CLOEXEC);
        if (ftruncate(fd, (off_t)nbytes) < 0) { close(fd); return -1; }
        return fd;
    }
    #endif

    static void *fv_map(int fd, size_t nbytes)
    {
        void *p = mmap(NULL, nbytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED) return NULL;
    #ifdef MADV_HUGEPAGE
        if (nbytes >= (4u << 20)) madvise(p, nbytes, MADV_HUGEPAGE); /* granted only where the kernel is set to */
    #endif
        return p;
    }
    """
    int fv_memory_file(const char *name, size_t nbytes) nogil
    void *fv_map(int fd, size_t nbytes) nogil
    int munmap(void *p, size_t nbytes) nogil
    int close(int fd) nogil


def memory_file(bytes name, size_t nbytes):
    """The descriptor of a new anonymous memory file of `nbytes` zero bytes.

    Raises:
        OSError: the system refuses it (no memory, no descriptors).
    """
    cdef int fd = fv_memory_file(name, nbytes)
    if fd < 0:
        raise OSError(errno, f"cannot create a memory file of {nbytes} bytes: {os.strerror(errno)}")
    return fd


cdef class Arena:
    """`nbytes` of shared memory behind the descriptor `fd`, which this object now owns.

    `Arena.create(nbytes)` makes a new one; `Arena(fd, nbytes)` maps one that another process made.
    """

    def __cinit__(self, int fd, size_t nbytes):
        self.fd = fd
        self.nbytes = nbytes
        self.base = <char *>fv_map(fd, nbytes)
        if self.base == NULL:
            raise OSError(errno, f"cannot map {nbytes} bytes of shared memory: {os.strerror(errno)}")

    @staticmethod
    def create(size_t nbytes):
        return Arena(memory_file(b"fastvec-arena", nbytes), nbytes)

    def __dealloc__(self):
        self.close_fd()
        if self.base != NULL:
            munmap(self.base, self.nbytes)

    def close_fd(self):
        """Gives up the descriptor; the mapping and its views stay."""
        if self.fd >= 0:
            close(self.fd)
            self.fd = -1

    cdef char *at(self, size_t offset, size_t nbytes) except NULL:
        if offset + nbytes > self.nbytes:
            raise IndexError(f"bytes {offset} to {offset + nbytes} are outside an arena of {self.nbytes}")
        return self.base + offset

    def view(self, size_t offset, tuple shape, dtype):
        """A NumPy array on the arena's memory, no copy; it keeps the mapping alive."""
        return np.ndarray(shape, dtype, buffer=self, offset=offset)

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.base, self.nbytes, 0, flags)
