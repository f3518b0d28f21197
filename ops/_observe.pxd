from cpython.object cimport PyObject

cdef enum:
    BUCKETS_MAX = 32


cdef class Slots:
    cdef double[BUCKETS_MAX] counts
    cdef double seconds, failed
    cdef void count(self, int bucket, double seconds) noexcept


cdef class Latest:
    cdef PyObject** places
    cdef Py_ssize_t room, at
    cdef int append(self, str address) except -1


cdef class TurnObserver:
    cdef dict labelled
    cdef Slots other
    cdef Latest strangers
    cdef Py_ssize_t first_max
    cdef object types, take
    cdef int rest
    cdef int observe(self, object address, object name, int lane, double seconds, bint failed) except -1
