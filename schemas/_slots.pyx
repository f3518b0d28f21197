"""Outbox slots of the journal in C; the layout stands at the head of `journal.py`, whose `encode_slot` is the twin."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_CheckExact
from cpython.list cimport PyList_CheckExact
from cpython.tuple cimport PyTuple_CheckExact
from cpython.unicode cimport PyUnicode_CheckExact
from libc.stdint cimport INT64_MAX, UINT32_MAX, int64_t

from rookery.schemas._write cimport Text, number, put_fixed, put_raw, take

cdef enum:
    FORMAT = 1
    HEAD_BYTES = 13
    TOPIC_BYTES_MAX = 0xFFFF
    SIZE_MAX = 0x7FFFFFFF


def encode_slot(slot):
    """The value of an outbox slot; see `journal.encode_slot_pure`, which does what is unusual."""
    cdef int64_t slot_number = 0
    slot_id, messages = slot
    if PyDict_CheckExact(messages) and number(slot_id, 0, INT64_MAX, &slot_number):
        try:
            size = _measured(<dict>messages)
        except UnicodeEncodeError:
            size = -1
        if size >= 0:
            return _written(<dict>messages, slot_number, size)
    from rookery.schemas.journal import encode_slot_pure

    return encode_slot_pure(slot)


cdef Py_ssize_t _measured(dict messages) except -2:
    """The size of a slot; -1 if something in it is unusual."""
    cdef Py_ssize_t size = HEAD_BYTES, one
    cdef int64_t partition = 0
    cdef Text topic
    if len(messages) > SIZE_MAX:
        return -1
    for destination, group in messages.items():
        if not (PyTuple_CheckExact(destination) and len(<tuple>destination) == 2 and PyList_CheckExact(group)):
            return -1
        name = (<tuple>destination)[0]
        if not PyUnicode_CheckExact(name) or not number((<tuple>destination)[1], 0, UINT32_MAX, &partition):
            return -1
        take(&topic, name)
        if topic.size > TOPIC_BYTES_MAX or len(<list>group) > SIZE_MAX:
            return -1
        size += 10 + topic.size + 8 * len(<list>group)
        for message in <list>group:
            one = _message_size(message)
            if one < 0:
                return -1
            size += one
    return size


cdef inline Py_ssize_t _message_size(object message):
    """Of key and value; -1 if they are not what they should be."""
    if not PyTuple_CheckExact(message) or len(<tuple>message) != 2:
        return -1
    key, value = (<tuple>message)[0], (<tuple>message)[1]
    if not PyBytes_CheckExact(value) or PyBytes_GET_SIZE(value) > SIZE_MAX:
        return -1
    if key is None:
        return PyBytes_GET_SIZE(value)
    if not PyBytes_CheckExact(key) or PyBytes_GET_SIZE(key) > SIZE_MAX:
        return -1
    return PyBytes_GET_SIZE(key) + PyBytes_GET_SIZE(value)


cdef bytes _written(dict messages, int64_t slot_number, Py_ssize_t size):
    """What was measured. No Python code has run since, so it is the same still."""
    cdef int64_t partition = 0
    cdef Py_ssize_t count
    cdef Text topic
    cdef bytes record = PyBytes_FromStringAndSize(NULL, size)
    cdef unsigned char* start = <unsigned char*>PyBytes_AS_STRING(record)
    cdef unsigned char* to = start
    cdef unsigned char* keys
    cdef unsigned char* values
    to[0] = FORMAT
    to = put_fixed(put_fixed(to + 1, slot_number, 8), len(messages), 4)
    for destination, group in messages.items():
        count = len(<list>group)
        take(&topic, (<tuple>destination)[0])
        number((<tuple>destination)[1], 0, UINT32_MAX, &partition)
        to = put_raw(put_fixed(to, topic.size, 2), topic.data, topic.size)
        keys = put_fixed(put_fixed(to, partition, 4), count, 4)
        values = keys + 4 * count
        to = values + 4 * count
        for message in <list>group:
            key, value = (<tuple>message)[0], (<tuple>message)[1]
            if key is None:
                keys = put_fixed(keys, UINT32_MAX, 4)
            else:
                keys = put_fixed(keys, PyBytes_GET_SIZE(key), 4)
                to = put_raw(to, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
            values = put_fixed(values, PyBytes_GET_SIZE(value), 4)
            to = put_raw(to, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
    if to - start != size:
        raise AssertionError("a slot changed while it was written")
    return record
