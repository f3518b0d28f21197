# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Compiled twins of address.parse and address.partition_of, which is what is asked of an agent that comes to memory.

Addresses of ASCII letters are read here, everything else by the twin; nothing is remembered, as that takes longer.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t

from rookery.schemas import address as twin

cdef extern from "Python.h":
    bint PyUnicode_IS_ASCII(object text)
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

cdef Py_ssize_t TYPE_BYTES_MAX = twin.TYPE_BYTES_MAX
cdef Py_ssize_t KEY_BYTES_MAX = twin.KEY_BYTES_MAX
parse_pure = twin.parse


def parse(address):
    """See address.parse."""
    cdef Py_ssize_t slash = plain_slash(address) if type(address) is str else -1
    if slash > 0:
        return address[:slash], address[slash + 1 :]
    return parse_pure(address)


cdef bint is_plain_address(str address) except -1:
    """Whether it is `Type/key`, in ASCII letters."""
    return plain_slash(address) > 0


cdef Py_ssize_t plain_slash(str address) except -2:
    """Where the type of an address in ASCII letters ends; -1 if there is none, or something is wrong with it."""
    cdef Py_ssize_t size = 0, slash
    cdef const char* text
    if not PyUnicode_IS_ASCII(address):
        return -1
    text = PyUnicode_AsUTF8AndSize(address, &size)
    slash = end_of_type(text, size)
    if 0 < slash <= TYPE_BYTES_MAX and 0 < size - slash - 1 <= KEY_BYTES_MAX and is_plain(text + slash + 1, text + size):
        return slash
    return -1


cdef Py_ssize_t end_of_type(const char* text, Py_ssize_t size) noexcept nogil:
    """Where the slash behind identifiers with dots between them is; -1 if there is none."""
    cdef Py_ssize_t at
    cdef bint begins = True
    cdef char c
    for at in range(size):
        c = text[at]
        if c == b"/":
            return -1 if begins else at
        if c == b".":
            if begins:
                return -1
            begins = True
        elif b"a" <= c <= b"z" or b"A" <= c <= b"Z" or c == b"_" or (not begins and b"0" <= c <= b"9"):
            begins = False
        else:
            return -1
    return -1


cdef bint is_plain(const char* text, const char* end) noexcept nogil:
    """Whether there is no control character among ASCII ones."""
    while text < end:
        if text[0] < 0x20 or text[0] == 0x7F:
            return False
        text += 1
    return True


def partition_of(key, long long partitions):
    """See address.partition_of."""
    return (murmur2_of(key.encode() if isinstance(key, str) else key) & 0x7FFFFFFF) % partitions


def murmur2(bytes data not None):
    """See address.murmur2."""
    return murmur2_of(data)


cdef uint32_t murmur2_of(bytes data) except? 0:
    if data is None:
        raise TypeError("a key is bytes or a str")
    cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(data)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    cdef uint32_t m = 0x5BD1E995, h = 0x9747B28C ^ <uint32_t>size, k
    while size >= 4:
        k = (p[0] | <uint32_t>p[1] << 8 | <uint32_t>p[2] << 16 | <uint32_t>p[3] << 24) * m
        h = h * m ^ (k ^ k >> 24) * m
        p += 4
        size -= 4
    if size:
        k = p[0]
        if size > 1:
            k |= <uint32_t>p[1] << 8
        if size > 2:
            k |= <uint32_t>p[2] << 16
        h = (h ^ k) * m
    h = (h ^ h >> 13) * m
    return h ^ h >> 15
