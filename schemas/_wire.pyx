"""Reading envelopes in C: `wire.py` is its twin, says how it works, and does here all that is unusual.

The parser knows what our own senders write, and what other languages make of `envelope.proto` as a rule. At anything
else (unknown fields, groups, numbers that are too long, texts that are no UTF-8) it stops, and Protobuf reads the bytes
again from the start. No byte is read at or behind `end` in any function: each compares before it looks.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject, PyObject_Hash
from cpython.ref cimport Py_INCREF, Py_XDECREF
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from rookery.schemas._crc cimport crc32, crc_begin

from types import MappingProxyType

from rookery.schemas import wire
from rookery.schemas.envelope_pb2 import Envelope

cdef extern from "Python.h":
    bint PyUnicode_IS_ASCII(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(PyObject* text)
    void* PyUnicode_DATA(PyObject* text)

crc_begin()

cdef enum:
    CRC_TAG = 0x7D
    CRC_BYTES = 5
    SHARED_BITS = 14
    SHARED_BYTES_MAX = 128

cdef Py_ssize_t FRAME_BYTES_MAX = wire.FRAME_BYTES_MAX
cdef object EMPTY = MappingProxyType({})

# --- what is read ---------------------------------------------------------------------------------------------------


@cython.final
@cython.auto_pickle(False)
@cython.freelist(64)
@cython.no_gc
cdef class Delivery:
    """How a message got here; see `envelope.proto`."""

    def __init__(self):
        raise TypeError("a Delivery belongs to a Frame")

    def __repr__(self):
        return (
            f"Delivery(source={self.source}, sequence={self.sequence}, attempt={self.attempt}, "
            f"schema_version={self.schema_version})"
        )


# Texts and bytes are in no cycle, so the garbage collector need not look at the many frames that wait in mailboxes.
@cython.final
@cython.auto_pickle(False)
@cython.freelist(256)
@cython.no_gc
cdef class Frame:
    """An envelope as it was read: the attributes of a protobuf Envelope, and `raw`, the bytes that it came in."""

    def __init__(self):
        raise TypeError("a Frame is made by decode() or frame_of()")

    @property
    def delivery(self):
        """Source, sequence, attempt and schema version; zeros if there was no delivery."""
        cdef Delivery delivery = Delivery.__new__(Delivery)
        delivery.source, delivery.sequence = self.source, self.sequence
        delivery.attempt, delivery.schema_version = self.attempt, self.schema_version
        return delivery

    def __repr__(self):
        return f"<Frame {self.type} {self.id} from {self.sender} to {self.target}, {len(self.payload)} bytes>"


cdef Frame _blank(bytes raw):
    cdef Frame frame = Frame.__new__(Frame)
    frame.sender = frame.target = frame.id = frame.correlation_id = frame.causation_id = ""
    frame.reply_to = frame.type = frame.content_type = ""
    frame.payload = b""
    frame.headers = EMPTY
    frame.raw = raw
    return frame


cdef Frame _copied(object envelope, bytes raw):
    """A frame of what Protobuf has read from `raw`."""
    cdef Frame frame = _blank(raw)
    frame.sender, frame.target, frame.payload = envelope.sender, envelope.target, envelope.payload
    frame.timestamp, frame.priority, frame.deadline = envelope.timestamp, envelope.priority, envelope.deadline
    frame.id, frame.correlation_id, frame.causation_id = envelope.id, envelope.correlation_id, envelope.causation_id
    frame.reply_to, frame.type, frame.content_type = envelope.reply_to, envelope.type, envelope.content_type
    frame.crc32 = envelope.crc32
    if envelope.headers:
        frame.headers = dict(envelope.headers)
    frame.has_delivery = envelope.HasField("delivery")
    if frame.has_delivery:
        delivery = envelope.delivery
        frame.source, frame.sequence = delivery.source, delivery.sequence
        frame.attempt, frame.schema_version = delivery.attempt, delivery.schema_version
    return frame


cpdef Frame frame_of(envelope):
    """The frame of an Envelope that was made here: `raw` has no CRC if the Envelope has none."""
    return _copied(envelope, envelope.SerializeToString())


cpdef object envelope_of(received):
    """The Envelope of a frame, parsed once and kept, for people and for what is rare; an Envelope is its own."""
    cdef Frame frame
    if type(received) is not Frame:
        return received
    frame = received
    if frame.parsed is None:
        frame.parsed = Envelope.FromString(frame.raw)
    return frame.parsed


cpdef Frame decode_frame(data):
    """Check the CRC over the bytes as received and parse them; see `wire.decode`, which says what it raises."""
    cdef const unsigned char* start
    cdef Py_ssize_t size
    cdef uint32_t stated
    cdef Frame frame
    if PyBytes_CheckExact(data) and PyBytes_GET_SIZE(data) >= CRC_BYTES:
        start = <const unsigned char*>PyBytes_AS_STRING(data)
        size = PyBytes_GET_SIZE(data) - CRC_BYTES
        stated = <uint32_t>_fixed(start + size + 1, 4)
        if start[size] == CRC_TAG and stated == crc32(start, size):
            frame = _blank(<bytes>data)
            try:
                if _parse(frame, start, start + size) and size - PyBytes_GET_SIZE(frame.payload) <= FRAME_BYTES_MAX:
                    frame.crc32 = stated
                    return frame
            except UnicodeDecodeError:
                pass
    envelope = wire.decode(data)
    return _copied(envelope, bytes(data))


# --- parsing --------------------------------------------------------------------------------------------------------


cdef inline uint64_t _fixed(const unsigned char* p, int size) noexcept nogil:
    """A little-endian number of `size` bytes."""
    cdef uint64_t n = 0
    cdef int i
    for i in range(size):
        n |= <uint64_t>p[i] << 8 * i
    return n


cdef inline const unsigned char* _varint(const unsigned char* p, const unsigned char* end, uint64_t* n) noexcept nogil:
    """Read a varint; returns what stands behind it, NULL if it is cut or has more than 64 bits."""
    cdef uint64_t found = 0
    cdef int shift = 0
    cdef unsigned char byte
    while p < end and shift < 64:
        byte = p[0]
        p += 1
        if shift == 63 and byte > 1:
            return NULL
        found |= <uint64_t>(byte & 0x7F) << shift
        if byte < 0x80:
            n[0] = found
            return p
        shift += 7
    return NULL


cdef inline const unsigned char* _size(const unsigned char* p, const unsigned char* end, Py_ssize_t* size) noexcept nogil:
    """Read a size that ends before `end` with its contents; NULL if not, or if it has more than four bytes."""
    cdef Py_ssize_t found = 0
    cdef int shift = 0
    while p < end and shift < 28:
        found |= <Py_ssize_t>(p[0] & 0x7F) << shift
        if p[0] < 0x80:
            p += 1
            if found > end - p:
                return NULL
            size[0] = found
            return p
        p += 1
        shift += 7
    return NULL


cdef int _parse(Frame frame, const unsigned char* p, const unsigned char* end) except -1:
    """Fill a frame with the fields up to `end`; 0 if something is unusual. Raises UnicodeDecodeError."""
    cdef uint64_t n = 0
    cdef Py_ssize_t size = 0
    cdef unsigned char tag
    cdef const char* text
    while p < end:
        tag = p[0]
        p += 1
        if tag == 0x20 or tag == 0x28 or tag == 0x60:
            p = _varint(p, end, &n)
            if p == NULL:
                return 0
            if tag == 0x20:
                frame.timestamp = <int64_t>n
            elif tag == 0x28:
                frame.priority = <int32_t><uint32_t>n
            else:
                frame.deadline = <int64_t>n
            continue
        if tag == CRC_TAG:  # one before the last: the last counts
            if end - p < 4:
                return 0
            p += 4
            continue
        p = _size(p, end, &size)
        if p == NULL:
            return 0
        text = <const char*>p
        if tag == 0x0A:
            frame.sender = _shared(tag, text, size)
        elif tag == 0x12:
            frame.target = _shared(tag, text, size)
        elif tag == 0x1A:
            frame.payload = PyBytes_FromStringAndSize(text, size)
        elif tag == 0x32:
            frame.id = _own(text, size)
        elif tag == 0x3A:
            frame.correlation_id = _own(text, size)
        elif tag == 0x42:
            frame.causation_id = _own(text, size)
        elif tag == 0x4A:
            frame.reply_to = _shared(tag, text, size)
        elif tag == 0x52:
            frame.type = _shared(tag, text, size)
        elif tag == 0x5A:
            frame.content_type = _shared(tag, text, size)
        elif tag == 0x6A:
            if not _parse_delivery(frame, p, p + size):
                return 0
        elif tag == 0x72:
            if not _parse_header(frame, p, p + size):
                return 0
        else:
            return 0
        p += size
    return 1


cdef bint _parse_delivery(Frame frame, const unsigned char* p, const unsigned char* end) noexcept:
    """Merge a delivery into those before it, field by field."""
    cdef uint64_t n = 0
    cdef unsigned char tag
    frame.has_delivery = True
    while p < end:
        tag = p[0]
        p += 1
        if tag == 0x0D:
            if end - p < 4:
                return False
            frame.source = <uint32_t>_fixed(p, 4)
            p += 4
        elif tag == 0x11:
            if end - p < 8:
                return False
            frame.sequence = _fixed(p, 8)
            p += 8
        elif tag == 0x18 or tag == 0x20:
            p = _varint(p, end, &n)
            if p == NULL:
                return False
            if tag == 0x18:
                frame.attempt = <uint32_t>n
            else:
                frame.schema_version = <uint32_t>n
        else:
            return False
    return True


cdef int _parse_header(Frame frame, const unsigned char* p, const unsigned char* end) except -1:
    """Add one header: exactly a key, then a value."""
    cdef Py_ssize_t size = 0
    if p >= end or p[0] != 0x0A:
        return 0
    p = _size(p + 1, end, &size)
    if p == NULL:
        return 0
    cdef str key = _shared(0x72, <const char*>p, size)
    p += size
    if p >= end or p[0] != 0x12:
        return 0
    p = _size(p + 1, end, &size)
    if p == NULL or p + size != end:
        return 0
    if frame.headers is EMPTY:
        frame.headers = {}
    (<dict>frame.headers)[key] = _own(<const char*>p, size)
    return 1


cdef inline str _own(const char* data, Py_ssize_t size):
    """A text that will hardly come again."""
    return <str>PyUnicode_DecodeUTF8(data, size, NULL) if size else ""


# Names of agents, clients and types come again and again: as the same object they need neither memory nor hashing. A
# text has one slot; of those that find another there one in eight drives it out, so that of too many names the most
# frequent are kept. At most 16,384 x 177 bytes = 2.9 MB. Of each field, the slot of the
# message before is looked at first: from one message to the next, most fields are the same.
cdef PyObject* _slots[(1 << SHARED_BITS) + 1]  # the last one stays empty
cdef uint8_t _marks[1 << SHARED_BITS]  # more bits of each text's hash: another one is told without a look at it
cdef uint64_t _before[16]  # by field; the empty slot, if the message before had a text that has none
cdef uint32_t _chance = 1


cdef inline uint64_t _hash(const char* data, Py_ssize_t size) noexcept nogil:
    cdef uint64_t h = <uint64_t>size, word
    while size >= 8:
        memcpy(&word, data, 8)
        h = (h ^ word) * <uint64_t>0x9E3779B97F4A7C15
        h ^= h >> 29
        data += 8
        size -= 8
    word = 0
    memcpy(&word, data, size)
    return (h ^ word) * <uint64_t>0x9E3779B97F4A7C15


cdef inline bint _holds(PyObject* found, const char* data, Py_ssize_t size) noexcept:
    """Whether what a slot has is this text."""
    return found != NULL and PyUnicode_GET_LENGTH(found) == size and not memcmp(PyUnicode_DATA(found), data, size)


cdef str _shared(unsigned char tag, const char* data, Py_ssize_t size):
    """A text that may come again; of ASCII up to a size, always the same object while it keeps its slot."""
    global _chance
    cdef uint64_t* before = &_before[tag >> 3]
    cdef uint64_t h
    cdef uint8_t mark
    cdef PyObject* found = _slots[before[0]]
    if size == 0:
        return ""
    if _holds(found, data, size):
        return <str>found
    if size > SHARED_BYTES_MAX:
        return _own(data, size)
    h = _hash(data, size)
    mark = <uint8_t>(h >> (56 - SHARED_BITS))
    before[0] = h >> (64 - SHARED_BITS)
    found = _slots[before[0]]
    if _marks[before[0]] == mark and _holds(found, data, size):
        return <str>found
    text = _own(data, size)
    if found != NULL:
        # A counter would fall into step with the fields of messages.
        _chance = _chance * 1_664_525 + 1_013_904_223
        if _chance >> 29:
            before[0] = 1 << SHARED_BITS
            return text
    if PyUnicode_IS_ASCII(text):
        PyObject_Hash(text)
        Py_INCREF(text)
        _slots[before[0]], _marks[before[0]] = <PyObject*>text, mark
        Py_XDECREF(found)
    return text
