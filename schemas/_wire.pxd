"""What other compiled modules take from `_wire.pyx`: fields at C speed, and functions without keyword parsing."""

cimport cython
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

# What `_write.pyx` has, so that a module needs to know one name for both directions.
from rookery.schemas._write cimport CLOSED, DELIVERED, OPEN, Seal, body_of, sealed


@cython.final
cdef class Delivery:
    cdef readonly uint32_t source
    cdef readonly uint64_t sequence
    cdef readonly uint32_t attempt
    cdef readonly uint32_t schema_version


@cython.final
cdef class Frame:
    cdef readonly str sender
    cdef readonly str target
    cdef readonly bytes payload
    cdef readonly str id
    cdef readonly str correlation_id
    cdef readonly str causation_id
    cdef readonly str reply_to
    cdef readonly str type
    cdef readonly str content_type
    cdef readonly object headers  # a dict, or the one empty mapping
    cdef readonly bytes raw
    cdef object parsed  # the Envelope, once somebody asked for it
    cdef readonly int64_t timestamp
    cdef readonly int64_t deadline
    cdef readonly uint64_t sequence
    cdef readonly uint32_t source
    cdef readonly uint32_t attempt
    cdef readonly uint32_t schema_version
    cdef readonly uint32_t crc32
    cdef readonly int32_t priority
    cdef readonly bint has_delivery


cpdef Frame decode_frame(data)
cpdef Frame frame_of(envelope)
cpdef object envelope_of(received)
