"""Writing envelopes in C: `wire.py` is the twin, says how it works, and does here all that is unusual.

Everything is measured first, then allocated once and written; no Python code runs in between, so sizes still hold.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_CheckExact
from cpython.unicode cimport PyUnicode_CheckExact
from libc.stdint cimport INT64_MAX, UINT32_MAX, int32_t, int64_t, uint32_t, uint64_t

from rookery.schemas._crc cimport crc32, crc32_by_table, crc_begin

from rookery.schemas import wire

crc_begin()

cdef enum:
    CRC_TAG = 0x7D
    DELIVERY_BYTES = 16


# What few messages have; absent where size, number or `has_header` is 0.
cdef struct More:
    Text reply_to
    int64_t deadline
    uint32_t schema_version
    bint has_header
    Text key
    Text value


cdef Py_ssize_t _more_size(More* more) noexcept:
    cdef Py_ssize_t size = 0
    if more.reply_to.size:
        size += text_size(&more.reply_to)
    if more.deadline:
        size += 1 + varint_size(<uint64_t>more.deadline)
    if more.schema_version:
        size += 3 + varint_size(more.schema_version)
    if more.has_header:
        size += 1 + varint_size(_entry_size(more)) + _entry_size(more)
    return size


cdef inline Py_ssize_t _entry_size(More* more) noexcept:
    return text_size(&more.key) + text_size(&more.value)


cdef unsigned char* _put_more(unsigned char* to, More* more) noexcept:
    """In the order in which Protobuf writes them."""
    if more.reply_to.size:
        to = put_text(to, 0x4A, &more.reply_to)
    if more.deadline:
        to[0] = 0x60
        to = put_varint(to + 1, <uint64_t>more.deadline)
    if more.schema_version:
        to[0], to[1], to[2] = 0x6A, <unsigned char>(1 + varint_size(more.schema_version)), 0x20
        to = put_varint(to + 3, more.schema_version)
    if more.has_header:
        to[0] = 0x72
        to = put_varint(to + 1, _entry_size(more))
        to = put_text(put_text(to, 0x0A, &more.key), 0x12, &more.value)
    return to


cdef inline Py_ssize_t _seal_size(Seal seal) noexcept:
    return 0 if seal == OPEN else CRC_BYTES if seal == CLOSED else CRC_BYTES + DELIVERY_BYTES


cdef void _put_seal(
    unsigned char* start, unsigned char* to, Seal seal, uint32_t source, uint64_t sequence
) noexcept nogil:
    """Complete the record that begins at `start`, from `to` on."""
    if seal == OPEN:
        return
    if seal == DELIVERED:
        to[0], to[1], to[2], to[7] = 0x6A, 14, 0x0D, 0x11
        put_fixed(to + 3, source, 4)
        to = put_fixed(to + 8, sequence, 8)
    to[0] = CRC_TAG
    put_fixed(to + 1, crc32(start, to - start), 4)


cdef bytes sealed(bytes body, Seal seal, uint32_t source, uint64_t sequence):
    if body is None:
        raise TypeError("a body is bytes")
    cdef Py_ssize_t size = PyBytes_GET_SIZE(body)
    cdef bytes record = PyBytes_FromStringAndSize(NULL, size + _seal_size(seal))
    cdef unsigned char* start = <unsigned char*>PyBytes_AS_STRING(record)
    _put_seal(start, put_raw(start, PyBytes_AS_STRING(body), size), seal, source, sequence)
    return record


cdef bytes body_of(
    str sender, str target, bytes payload, int64_t timestamp, int32_t priority, str id, str type, str content_type,
    str correlation_id, str causation_id, Seal seal, uint32_t source, uint64_t sequence,
):
    return _assembled(
        sender, target, payload, timestamp, priority, id, type, content_type, correlation_id, causation_id,
        NULL, seal, source, sequence,
    )


cdef bytes _assembled(
    str sender, str target, bytes payload, int64_t timestamp, int32_t priority, str id, str type, str content_type,
    str correlation_id, str causation_id, More* more, Seal seal, uint32_t source, uint64_t sequence,
):
    """Measure, allocate once, write; all tags have one byte. `more` may be NULL."""
    # In the order in which they are written: head, then id, correlation_id, causation_id and payload.
    cdef Text[8] texts
    cdef uint64_t upper = <uint64_t>timestamp >> 28
    cdef int i
    if payload is None or priority < 0:
        raise ValueError("a payload is bytes, a priority not negative")
    take(&texts[0], sender)
    take(&texts[1], target)
    take(&texts[2], type)
    take(&texts[3], content_type)
    take(&texts[4], id)
    take(&texts[5], correlation_id)
    take(&texts[6], causation_id)
    texts[7] = Text(PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload))
    cdef Py_ssize_t size = 1 + varint_size(priority) + 5 + varint_size(upper) + _seal_size(seal)
    for i in range(8):
        size += text_size(&texts[i])
    if more != NULL:
        size += _more_size(more)
    cdef bytes record = PyBytes_FromStringAndSize(NULL, size)
    cdef unsigned char* start = <unsigned char*>PyBytes_AS_STRING(record)
    cdef unsigned char* to = put_text(start, 0x0A, &texts[0])
    to = put_text(to, 0x12, &texts[1])
    to = put_text(to, 0x52, &texts[2])
    to = put_text(to, 0x5A, &texts[3])
    to[0] = 0x28
    to = put_varint(to + 1, priority)
    # Four bytes of 7 bits that go on, then the rest: as the twin writes it, which takes the bytes from tables.
    to[0] = 0x20
    for i in range(4):
        to[1 + i] = <unsigned char>(<uint64_t>timestamp >> 7 * i & 0x7F | 0x80)
    to = put_varint(to + 5, upper)
    to = put_text(to, 0x32, &texts[4])
    to = put_text(to, 0x3A, &texts[5])
    to = put_text(to, 0x42, &texts[6])
    to = put_text(to, 0x1A, &texts[7])
    if more != NULL:
        to = _put_more(to, more)
    _put_seal(start, to, seal, source, sequence)
    return record


cdef bint _extra(More* more, object reply_to, object deadline, object schema_version, object headers) except -1:
    """Take what few messages have; False if Protobuf has to write it. What `more` points into stays with the caller."""
    cdef int64_t n = 0
    if not (PyUnicode_CheckExact(reply_to) and number(deadline, -INT64_MAX - 1, INT64_MAX, &more.deadline)):
        return False
    take(&more.reply_to, reply_to)
    if not number(schema_version, 0, UINT32_MAX, &n):
        return False
    more.schema_version = <uint32_t>n
    more.has_header = False
    if headers is None:
        return True
    if not PyDict_CheckExact(headers) or len(<dict>headers) > 1:  # of several, Protobuf decides the order
        return False
    for key, value in (<dict>headers).items():
        if not (PyUnicode_CheckExact(key) and PyUnicode_CheckExact(value)):
            return False
        take(&more.key, key)
        take(&more.value, value)
        more.has_header = True
    return True


def encode_body(  # the signature of the twin
    sender, target, payload, timestamp, priority, id, type, content_type, correlation_id="", causation_id="",
    reply_to="", deadline=0, schema_version=0, headers=None,
):
    """Serialize an envelope, all but what `seal` adds; see `wire.encode_body`, which does what is unusual."""
    cdef int64_t when = 0, lane = 0
    cdef More more
    if (
        PyUnicode_CheckExact(sender) and PyUnicode_CheckExact(target) and PyBytes_CheckExact(payload)
        and PyUnicode_CheckExact(id) and PyUnicode_CheckExact(type) and PyUnicode_CheckExact(content_type)
        and PyUnicode_CheckExact(correlation_id) and PyUnicode_CheckExact(causation_id)
        and number(timestamp, -INT64_MAX - 1, INT64_MAX, &when) and number(priority, 0, 0x7F, &lane)
    ):
        try:
            if _extra(&more, reply_to, deadline, schema_version, headers):
                return _assembled(
                    <str>sender, <str>target, <bytes>payload, when, <int32_t>lane, <str>id, <str>type,
                    <str>content_type, <str>correlation_id, <str>causation_id, &more, OPEN, 0, 0,
                )
        except UnicodeEncodeError:
            pass
    return wire.encode_body(
        sender, target, payload, timestamp, priority, id, type, content_type, correlation_id, causation_id,
        reply_to, deadline, schema_version, headers,
    )


def seal(body, source=None, sequence=0):
    """Complete a body; see `wire.seal`, which does what is unusual."""
    cdef int64_t partition = 0, count = 0
    if PyBytes_CheckExact(body):
        if source is None:
            return sealed(<bytes>body, CLOSED, 0, 0)
        if number(source, 0, UINT32_MAX, &partition) and number(sequence, 0, INT64_MAX, &count):
            return sealed(<bytes>body, DELIVERED, <uint32_t>partition, <uint64_t>count)
    return wire.seal(body, source, sequence)


def checksum(const unsigned char[::1] data, *, bint by_table=False):
    """CRC-32 of a buffer; `by_table` as where the processor has no instruction for it."""
    cdef const unsigned char* first = &data[0] if data.shape[0] else NULL
    return crc32_by_table(first, data.shape[0]) if by_table else crc32(first, data.shape[0])
