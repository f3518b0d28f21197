# cython: boundscheck=False, wraparound=False
"""What `outbox` adds up for each message; Python: `outbox._fitting`."""

from cpython.bytes cimport PyBytes_CheckExact, PyBytes_GET_SIZE


cdef inline Py_ssize_t size_of(object data) except -1:
    if data is None:
        return 0
    return PyBytes_GET_SIZE(data) if PyBytes_CheckExact(data) else len(data)


def fitting(messages, Py_ssize_t size, Py_ssize_t bytes_max, Py_ssize_t overhead, bint one_goes):
    """How many messages from the first on fit, and the size with them; `one_goes` whatever its size."""
    cdef Py_ssize_t index = 0
    for key, value in messages:
        size += size_of(value) + size_of(key) + overhead
        if size > bytes_max and not (one_goes and not index):
            return index, size
        index += 1
    return index, size
