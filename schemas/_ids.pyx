# cython: language_level=3, cdivision=True
"""Ids of messages, written in C; see ids.id_source."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

cdef extern from "Python.h":
    object PyUnicode_New(Py_ssize_t size, Py_UCS4 max_char)
    void* PyUnicode_DATA(object text)

cdef enum:
    DIGITS_MAX = 20
    ASCII_MAX = 127


@cython.final
cdef class IdSource:
    """See ids.id_source; other compiled modules call `next_id`."""

    def __init__(self, str prefix not None):
        self.prefix = prefix.encode("ascii")

    def __call__(self):
        return self.next_id()

    cdef str next_id(self):
        cdef char[DIGITS_MAX] digits
        cdef int at = DIGITS_MAX
        cdef uint64_t rest = self.number
        cdef Py_ssize_t size = PyBytes_GET_SIZE(self.prefix)
        cdef char* text
        while at == DIGITS_MAX or rest:
            at -= 1
            digits[at] = c"0" + <char>(rest % 10)
            rest //= 10
        self.number += 1
        made = PyUnicode_New(size + DIGITS_MAX - at, ASCII_MAX)
        text = <char*>PyUnicode_DATA(made)
        memcpy(text, PyBytes_AS_STRING(self.prefix), size)
        memcpy(text + size, digits + at, DIGITS_MAX - at)
        return <str>made
