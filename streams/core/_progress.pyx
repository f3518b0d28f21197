# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Compiled twin of progress.LaneProgress; see there for what it decides."""

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from libc.stdlib cimport free, realloc
from libc.string cimport memmove

from array import array

from rookery.schemas.journal import LanePosition
from rookery.streams.core._recent cimport RecentIds

# Forget this many settled flags at a time, so that trimming costs nothing per record.
cdef Py_ssize_t TRIM = 4_096
cdef Py_ssize_t ROOM = 64


@cython.final
cdef class LaneProgress:
    """Tracks one lane from the position that the journal gave; every record enters through one of the admit calls."""

    def __cinit__(self, position, long long window):
        self.incarnation = position.incarnation
        self.prefix = self.next = self.base = position.prefix
        self.flags = bytearray(position.done)
        self.seen_stored = array("Q", position.seen)
        self.seen = array("Q", position.seen)
        self.last = self.seen
        self.lost = {}
        self.ids = RecentIds(window)

    def __dealloc__(self):
        free(self.sources)
        free(self.sequences)

    @property
    def fetched_count(self):
        """Records admitted above the prefix: the lane's share of the un-acked window."""
        return self.next - self.prefix

    @property
    def flag_count(self):
        """Bits that the position of this lane may need."""
        return len(self.flags)

    def admit(self, long long source, unsigned long long sequence):
        """Admit the record at `next`, sent by a turn of partition `source`; True if it has to be handled."""
        return self.admit_one(source, sequence)

    def admit_outside(self, str message_id not None):
        """Admit the record at `next`, sent by a client; an empty id is never a repeat. True if it is to be handled."""
        return self.admit_client(message_id)

    def remember(self, long long offset, str message_id not None):
        """Put the id of the record at `offset` into the window; True if the window held it already."""
        return self.ids.remember(offset, message_id)

    cdef bint admit_one(self, long long source, unsigned long long sequence) except -1:
        if not 0 <= source < self.last.shape[0]:
            raise IndexError(source)
        cdef bint known = sequence <= self.last[source]
        if not known:
            self.last[source] = sequence
        return self.enter(<int>source, sequence, known)

    cdef bint admit_client(self, str message_id) except -1:
        return self.enter(-1, 0, bool(message_id) and self.ids.remember(self.next, message_id))

    def skip_to(self, long long offset):
        """Count the offsets from `next` up to `offset` as done: the log has no records there."""
        cdef long long missing = offset - self.next, index = self.next - self.base
        self.flags[index : index + missing] = b"\x01" * missing
        for _ in range(missing):
            self.note_origin(-1, 0)
        self.next = offset

    def truncate(self, long long start):
        """The log deleted everything below `start`, which is above `next`: go on there.

        Returns the first and the last offset that was not done, and how many there were; they stay open until the last
        of them is given up. None if all were done.
        """
        cdef long long begin = self.next, index = self.next - self.base, missing = start - self.next
        lost = bytes(self.flags[index : index + missing]).ljust(missing, b"\x00")
        first, last, count = lost.find(0), lost.rfind(0), lost.count(0)
        self.skip_to(start)
        self.flags[index : index + missing] = lost
        if not count:
            return None
        self.lost[begin + last] = begin + first
        return begin + first, begin + last, count

    cdef int note_origin(self, int source, unsigned long long sequence) except -1:
        cdef Py_ssize_t end = self.origins_head + self.origins_size, room = self.origins_room
        if end == room:
            if self.origins_head >= room // 2 and room:
                memmove(self.sources, self.sources + self.origins_head, self.origins_size * sizeof(int))
                memmove(
                    self.sequences, self.sequences + self.origins_head, self.origins_size * sizeof(unsigned long long)
                )
                self.origins_head = 0
                end = self.origins_size
            else:
                self.sources = <int*>grown(self.sources, &room, sizeof(int))
                room = self.origins_room
                self.sequences = <unsigned long long*>grown(self.sequences, &room, sizeof(unsigned long long))
                self.origins_room = room
        self.sources[end] = source
        self.sequences[end] = sequence
        self.origins_size += 1
        return 0

    cdef bint enter(self, int source, unsigned long long sequence, bint known) except -1:
        self.note_origin(source, sequence)
        cdef Py_ssize_t index = self.next - self.base
        self.next += 1
        if index == PyByteArray_GET_SIZE(self.flags):
            self.flags.append(known)
            return not known
        cdef char* flag = PyByteArray_AS_STRING(self.flags) + index
        if known:
            flag[0] = 1
        return not flag[0]

    cdef int finish(self, long long offset) except -1:
        cdef Py_ssize_t index = offset - self.base
        if not 0 <= index < PyByteArray_GET_SIZE(self.flags):
            raise IndexError(offset)
        PyByteArray_AS_STRING(self.flags)[index] = 1
        return 0

    def done(self, long long offset):
        """Mark an admitted record as done; takes effect on the prefix at the next `advance`."""
        self.finish(offset)

    def give_up(self, long long offset):
        """Mark a record as done that no agent takes; with the last of a lost stretch the whole of it."""
        first = self.lost.pop(offset, offset)
        self.flags[first - self.base : offset + 1 - self.base] = b"\x01" * (offset + 1 - first)

    def advance(self):
        """Move the prefix over everything that is done without a gap, folding the sequences it passes."""
        cdef long long first_open = self.flags.find(0, self.prefix - self.base)
        cdef long long stop = min(self.next, self.base + (len(self.flags) if first_open < 0 else first_open))
        cdef unsigned long long[:] stored
        cdef Py_ssize_t at, passed = stop - self.prefix
        cdef int source
        if stop == self.next:
            self.seen_stored = self.seen[:]
            self.origins_head = self.origins_size = 0
        else:
            stored = self.seen_stored
            for at in range(self.origins_head, self.origins_head + passed):
                source = self.sources[at]
                if source >= 0 and self.sequences[at] > stored[source]:
                    stored[source] = self.sequences[at]
            self.origins_head += passed
            self.origins_size -= passed
        self.prefix = stop
        if stop - self.base > TRIM:
            del self.flags[: stop - self.base]
            self.base = stop

    def position(self):
        """What the journal has to keep of this lane now."""
        last = self.flags.rfind(1, self.prefix - self.base)
        done = bytes(self.flags[self.prefix - self.base : last + 1]) if last >= 0 else b""
        return LanePosition(self.prefix, done, self.seen_stored[:], self.incarnation)


cdef void* grown(void* memory, Py_ssize_t* room, Py_ssize_t each) except NULL:
    """The memory with twice the room, which is told; raises MemoryError and leaves it as it was."""
    cdef Py_ssize_t more = room[0] * 2 if room[0] else ROOM
    cdef void* new = realloc(memory, more * each)
    if new == NULL:
        raise MemoryError()
    room[0] = more
    return new
