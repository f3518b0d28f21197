"""A record as `kafka/_records.pyx` makes it, here so that `_loops.pyx` can look into it."""

cimport cython


@cython.final
@cython.no_gc  # it holds bytes, strings and tuples of them, so it is in no cycle
@cython.freelist(1024)
cdef class FetchedRecord:
    """A record as it was fetched; `timestamp_type` is 1 where `timestamp` is the broker's."""

    def __init__(self):
        raise TypeError("made by decode_batch only")

    def __repr__(self):
        return f"FetchedRecord(offset={self.offset}, key={self.key!r}, value={self.value!r}, headers={self.headers!r})"
