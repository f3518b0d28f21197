"""What other compiled modules take from `_write.pyx`, and how fields are written into memory that was measured."""

from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_Check
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL


# The bytes of a text: inside of the str if it is ASCII, kept by it if not.
cdef struct Text:
    const char* data
    Py_ssize_t size


cdef inline int take(Text* text, object value) except -1:
    """Find the bytes of a str; raises UnicodeEncodeError."""
    text.data = PyUnicode_AsUTF8AndSize(value, &text.size)
    return 0


cdef inline bint number(object value, int64_t least, int64_t most, int64_t* n) except -1:
    """Whether it is an int within bounds, and if so, which."""
    cdef int overflow = 0
    if not PyLong_Check(value) or isinstance(value, bool):  # Protobuf warns of those, and will refuse them
        return False
    n[0] = PyLong_AsLongLongAndOverflow(value, &overflow)
    return overflow == 0 and least <= n[0] <= most


cdef inline Py_ssize_t varint_size(uint64_t n) noexcept nogil:
    cdef Py_ssize_t size = 1
    while n > 0x7F:
        n >>= 7
        size += 1
    return size


cdef inline Py_ssize_t text_size(Text* text) noexcept nogil:
    """Of a field with a tag of one byte."""
    return 1 + varint_size(<uint64_t>text.size) + text.size


cdef inline unsigned char* put_varint(unsigned char* to, uint64_t n) noexcept nogil:
    while n > 0x7F:
        to[0] = <unsigned char>(n & 0x7F | 0x80)
        to += 1
        n >>= 7
    to[0] = <unsigned char>n
    return to + 1


cdef inline unsigned char* put_fixed(unsigned char* to, uint64_t n, int size) noexcept nogil:
    """Little-endian, `size` bytes."""
    cdef int i
    for i in range(size):
        to[i] = <unsigned char>(n >> 8 * i)
    return to + size


cdef inline unsigned char* put_raw(unsigned char* to, const char* data, Py_ssize_t size) noexcept nogil:
    memcpy(to, data, size)
    return to + size


cdef inline unsigned char* put_text(unsigned char* to, unsigned char tag, Text* text) noexcept nogil:
    to[0] = tag
    return put_raw(put_varint(to + 1, <uint64_t>text.size), text.data, text.size)


cdef enum Seal:
    """How far `body_of` goes."""

    OPEN = 0  # the body; its sequence is not known yet
    CLOSED = 1  # with the CRC; what comes from outside, or goes to a client, has no delivery
    DELIVERED = 2  # with delivery and CRC


cdef enum:
    CRC_BYTES = 5


# All that nearly every message has; raises as `encode_body` does. `source` and `sequence` count with DELIVERED only.
cdef bytes body_of(
    str sender, str target, bytes payload, int64_t timestamp, int32_t priority, str id, str type, str content_type,
    str correlation_id, str causation_id, Seal seal, uint32_t source, uint64_t sequence,
)
# `body` with delivery and CRC (DELIVERED), or the CRC only (CLOSED).
cdef bytes sealed(bytes body, Seal seal, uint32_t source, uint64_t sequence)
