# cython: boundscheck=False, wraparound=False
"""Kafka's record batches (format 2, no compression) made and read in C; Python: `batches` and `fetched`, by aiokafka.

The format: https://kafka.apache.org/documentation/#recordbatch. All numbers of the header are big-endian; those of the
records are varints, as Protocol Buffers' sint64.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int16_t, int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from rookery.streams.core._fetched cimport FetchedRecord
from rookery.streams.kafka._crc32c cimport (
    crc32c_by_instruction,
    crc32c_by_table,
    crc32c_in_hardware,
    crc32c_prepare,
)

from aiokafka.errors import CorruptRecordException

cdef extern from "Python.h":
    int PyByteArray_Resize(object array, Py_ssize_t size) except -1
    char *PyByteArray_AS_STRING(object array)
    Py_ssize_t PyObject_LengthHint(object things, Py_ssize_t otherwise) except -1

# Where the fields of a batch's header are.
cdef enum:
    LENGTH_AT = 8
    LEADER_EPOCH_AT = 12  # the length counts from here on
    MAGIC_AT = 16
    CRC_AT = 17
    ATTRIBUTES_AT = 21  # the CRC covers from here on
    LAST_OFFSET_AT = 23
    FIRST_TIMESTAMP_AT = 27
    MAX_TIMESTAMP_AT = 35
    PRODUCER_ID_AT = 43
    PRODUCER_EPOCH_AT = 51
    SEQUENCE_AT = 53
    COUNT_AT = 57
    RECORDS_AT = 61

cdef enum:
    MAGIC = 2
    COMPRESSION = 0x07  # bits of the attributes
    APPEND_TIME = 0x08
    VARINT_MAX = 10  # bytes
    RECORD_MAX = 5 * VARINT_MAX + 1  # bytes of a record besides key, value and headers
    RECORD_GUESS = 128  # bytes of a record, to begin with

cdef int64_t BATCH_MAX = 2**31 - 1  # the length is signed

crc32c_prepare()
cdef bint IN_HARDWARE = crc32c_in_hardware()


cdef inline uint32_t checksum(const unsigned char *data, Py_ssize_t size) noexcept:
    return crc32c_by_instruction(data, <size_t>size) if IN_HARDWARE else crc32c_by_table(data, <size_t>size)


def crc32c(const unsigned char[::1] data, *, bint by_table=False):
    """CRC-32C of a buffer; `by_table` as where the processor has no instruction for it."""
    cdef const unsigned char *first = &data[0] if data.shape[0] else NULL
    return crc32c_by_table(first, <size_t>data.shape[0]) if by_table else checksum(first, data.shape[0])


# -- making -----------------------------------------------------------------------------------------------------------


cdef inline unsigned char *put_number(unsigned char *to, uint64_t number, int size) noexcept:
    cdef int index
    for index in range(size):
        to[index] = <unsigned char>(number >> (8 * (size - 1 - index)))
    return to + size


cdef inline unsigned char *put_varint(unsigned char *to, int64_t number) noexcept:
    cdef uint64_t rest = (<uint64_t>number << 1) ^ <uint64_t>(number >> 63)
    while rest > 0x7F:
        to[0] = <unsigned char>(rest | 0x80)
        to += 1
        rest >>= 7
    to[0] = <unsigned char>rest
    return to + 1


cdef inline Py_ssize_t varint_size(int64_t number) noexcept:
    cdef uint64_t rest = (<uint64_t>number << 1) ^ <uint64_t>(number >> 63)
    cdef Py_ssize_t size = 1
    while rest > 0x7F:
        rest >>= 7
        size += 1
    return size


cdef inline unsigned char *put_bytes(unsigned char *to, bytes data) noexcept:
    """A varint length and what it counts; -1 for None."""
    cdef Py_ssize_t size
    if data is None:
        return put_varint(to, -1)
    size = PyBytes_GET_SIZE(data)
    to = put_varint(to, size)
    memcpy(to, PyBytes_AS_STRING(data), <size_t>size)
    return to + size


cdef inline bytes content(object data):
    """Bytes, or None, of whatever has them."""
    if data is None or PyBytes_CheckExact(data):
        return <bytes>data
    return bytes(memoryview(data))  # and bytes(3) would be three zeros


cdef bytes encode_headers(headers):
    """What stands at the end of each record."""
    cdef bytearray encoded = bytearray()
    cdef unsigned char number[VARINT_MAX]
    cdef bytes part
    encoded += number[: put_varint(number, len(headers)) - number]
    for name, value in headers:
        for part in ((<str?>name).encode(), content(value)):
            encoded += number[: put_varint(number, -1 if part is None else len(part)) - number]
            if part is not None:
                encoded += part
    return bytes(encoded)


def encode_batch(records, headers, int64_t timestamp, int64_t producer_id, int16_t epoch, int32_t sequence):
    """A batch of all (key, value) in `records`, with the same headers and time on each, and how many they are."""
    cdef bytes key, value, tail = encode_headers(headers)
    cdef Py_ssize_t tail_size = PyBytes_GET_SIZE(tail), key_size, value_size, size = RECORDS_AT
    cdef Py_ssize_t room = RECORDS_AT + (PyObject_LengthHint(records, 8) + 1) * (RECORD_GUESS + tail_size)
    cdef bytearray batch = bytearray()
    cdef int64_t count = 0
    cdef unsigned char *first
    cdef unsigned char *to
    PyByteArray_Resize(batch, room)
    first = <unsigned char *>PyByteArray_AS_STRING(batch)
    for item in records:
        some_key, some_value = item
        key, value = content(some_key), content(some_value)
        key_size = -1 if key is None else PyBytes_GET_SIZE(key)
        value_size = -1 if value is None else PyBytes_GET_SIZE(value)
        if size + key_size + value_size + tail_size + RECORD_MAX > room:
            room = 2 * room + key_size + value_size + tail_size + RECORD_MAX
            PyByteArray_Resize(batch, room)
            first = <unsigned char *>PyByteArray_AS_STRING(batch)
        to = first + size
        to = put_varint(
            to,
            2  # attributes, and the difference of the time
            + varint_size(count)
            + varint_size(key_size) + max(key_size, 0)
            + varint_size(value_size) + max(value_size, 0)
            + tail_size,
        )
        to[0] = to[1] = 0
        to = put_bytes(put_bytes(put_varint(to + 2, count), key), value)
        memcpy(to, PyBytes_AS_STRING(tail), <size_t>tail_size)
        size = to + tail_size - first
        count += 1
        if size > BATCH_MAX:
            raise OverflowError(f"{size} bytes are more than a record batch can have")
    put_number(first, 0, 8)  # offsets begin at 0 for who sends
    put_number(first + LENGTH_AT, <uint64_t>(size - LEADER_EPOCH_AT), 4)
    put_number(first + LEADER_EPOCH_AT, <uint64_t>-1, 4)  # the broker's
    first[MAGIC_AT] = MAGIC
    put_number(first + ATTRIBUTES_AT, 0, 2)
    put_number(first + LAST_OFFSET_AT, <uint64_t>max(count - 1, 0), 4)
    put_number(first + FIRST_TIMESTAMP_AT, <uint64_t>(timestamp if count else -1), 8)
    put_number(first + MAX_TIMESTAMP_AT, <uint64_t>(timestamp if count else -1), 8)
    put_number(first + PRODUCER_ID_AT, <uint64_t>producer_id, 8)
    put_number(first + PRODUCER_EPOCH_AT, <uint64_t>epoch, 2)
    put_number(first + SEQUENCE_AT, <uint64_t>sequence, 4)
    put_number(first + COUNT_AT, <uint64_t>count, 4)
    put_number(first + CRC_AT, checksum(first + ATTRIBUTES_AT, size - ATTRIBUTES_AT), 4)
    PyByteArray_Resize(batch, size)
    return batch, count


# -- reading ----------------------------------------------------------------------------------------------------------


cdef struct Reader:
    const unsigned char *data
    Py_ssize_t at
    Py_ssize_t end  # nothing is read from here on


cdef inline int64_t number_at(const unsigned char *data, int size) noexcept:
    """A signed number."""
    cdef uint64_t number = 0
    cdef int index
    for index in range(size):
        number = number << 8 | data[index]
    return <int64_t>(number << (64 - 8 * size)) >> (64 - 8 * size)


cdef int corrupt(str what) except -1:
    raise CorruptRecordException(what)


cdef inline int64_t read_varint(Reader *reader) except? -1:
    cdef uint64_t number = 0
    cdef unsigned char byte
    cdef int shift = 0
    while True:
        if reader.at >= reader.end:
            corrupt("a number ends after its record")
        byte = reader.data[reader.at]
        reader.at += 1
        number |= <uint64_t>(byte & 0x7F) << shift
        if byte < 0x80:
            return <int64_t>(number >> 1) ^ -<int64_t>(number & 1)
        shift += 7
        if shift > 63:
            corrupt("a number has more than 64 bits")


cdef inline bytes read_bytes(Reader *reader):
    cdef int64_t size = read_varint(reader)
    cdef const char *first = <const char *>reader.data + reader.at
    if size < 0:
        return None
    if size > reader.end - reader.at:
        corrupt("key, value or header end after their record")
    reader.at += <Py_ssize_t>size
    return PyBytes_FromStringAndSize(first, <Py_ssize_t>size)


cdef tuple read_headers(Reader *reader):
    cdef int64_t count = read_varint(reader), size
    cdef list headers = []
    if count < 0:
        corrupt("a record has a negative number of headers")
    while count:
        size = read_varint(reader)
        if size < 0 or size > reader.end - reader.at:
            corrupt("the name of a header ends after its record")
        name = PyUnicode_DecodeUTF8(<char *>reader.data + reader.at, <Py_ssize_t>size, NULL)
        reader.at += <Py_ssize_t>size
        headers.append((name, read_bytes(reader)))
        count -= 1
    return tuple(headers)


cdef list decode(Reader *reader, int64_t position, bint check):
    cdef const unsigned char *data = reader.data + reader.at  # of this batch
    cdef const unsigned char *same = NULL  # the encoded headers of the record before
    cdef Py_ssize_t end, same_size = -1
    cdef int64_t length, count, attributes, base, first_timestamp, last_timestamp, offset, difference
    cdef tuple headers = ()
    cdef FetchedRecord record
    cdef list records = []
    if reader.end - reader.at < RECORDS_AT:
        corrupt("a record batch is shorter than its header")
    length = number_at(data + LENGTH_AT, 4)
    if length < RECORDS_AT - LEADER_EPOCH_AT or length > reader.end - reader.at - LEADER_EPOCH_AT:
        corrupt("a record batch ends after what was fetched")
    end = reader.end = reader.at + LEADER_EPOCH_AT + <Py_ssize_t>length
    if check and checksum(data + ATTRIBUTES_AT, <Py_ssize_t>length + LEADER_EPOCH_AT - ATTRIBUTES_AT) != (
        <uint32_t>number_at(data + CRC_AT, 4)
    ):
        corrupt("the CRC is not that of the record batch")
    attributes = number_at(data + ATTRIBUTES_AT, 2)
    if attributes & COMPRESSION:
        raise ValueError("the record batch is compressed")
    base, count = number_at(data, 8), number_at(data + COUNT_AT, 4)
    first_timestamp, last_timestamp = number_at(data + FIRST_TIMESTAMP_AT, 8), number_at(data + MAX_TIMESTAMP_AT, 8)
    reader.at += RECORDS_AT
    while count > 0:
        count -= 1
        reader.end = end
        length = read_varint(reader)
        if length < 0 or length > end - reader.at:
            corrupt("a record ends after its batch")
        reader.end = reader.at + <Py_ssize_t>length
        read_varint(reader)  # attributes: there are none yet
        difference = read_varint(reader)
        offset = <int64_t>(<uint64_t>base + <uint64_t>read_varint(reader))
        record = FetchedRecord.__new__(FetchedRecord)
        record.offset = offset
        record.timestamp_type = (attributes & APPEND_TIME) != 0
        record.timestamp = (
            last_timestamp if record.timestamp_type else <int64_t>(<uint64_t>first_timestamp + <uint64_t>difference)
        )
        record.key = read_bytes(reader)
        record.value = read_bytes(reader)
        # As a rule all records of a batch have the same, then one tuple is enough.
        if reader.end - reader.at != same_size or memcmp(same, reader.data + reader.at, <size_t>same_size):
            same, same_size = reader.data + reader.at, reader.end - reader.at
            headers = read_headers(reader)
            if reader.at != reader.end:
                corrupt("a record is longer than what it holds")
        record.headers = headers
        reader.at = reader.end
        if offset >= position:
            records.append(record)
    if reader.at != end:
        corrupt("a record batch is longer than its records")
    return records


def decode_batch(data, Py_ssize_t at, int64_t position, bint check):
    """The records, from the offset `position` on, of the batch that begins at `at`; its CRC is compared if `check`.

    Whether it has this format, the caller knows. Raises CorruptRecordException, ValueError when it is compressed.
    """
    cdef Py_buffer view
    cdef Reader reader
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        reader.data, reader.at, reader.end = <const unsigned char *>view.buf, at, view.len
        if at < 0 or at > view.len:
            raise IndexError(at)
        return decode(&reader, position, check)
    finally:
        PyBuffer_Release(&view)
