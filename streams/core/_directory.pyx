# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Compiled twin of what a partition keeps the mailboxes of its agents in; see mailbox.Directory.

A dict from which as many go as come fills with marks of those that have gone, and what it leads to can't be asked for
before it is needed. Here a place has eight bytes: a hash, and where the mailbox stands in a list. It is the list that owns
the mailboxes, for the collector's sake.
"""

cimport cython
from cpython.list cimport PyList_GET_SIZE
from cpython.object cimport PyObject_Hash
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from rookery.schemas._memory cimport PyMem_RawCalloc, PyMem_RawFree, list_item, prefetch
from rookery.streams.core._mailboxes cimport Mailbox

cdef enum:
    PLACES_MIN = 8
    GAPS_MIN = 64  # that the list may have in any case


@cython.final
@cython.no_gc_clear  # the list is cleared instead, and nothing is found any more
cdef class Directory:
    """Mailboxes by address, as a dict has them: an open table with linear probing."""

    def __cinit__(self):
        self.mailboxes = []
        self.places = <Place*>PyMem_RawCalloc(PLACES_MIN, sizeof(Place))
        if self.places == NULL:
            raise MemoryError()
        self.mask = PLACES_MIN - 1

    def __dealloc__(self):
        PyMem_RawFree(self.places)

    def __len__(self):
        return self.count

    def __contains__(self, address):
        return isinstance(address, str) and self.found(address) is not None

    def __iter__(self):
        cdef Mailbox mailbox
        return iter([mailbox.address for mailbox in self.mailboxes if mailbox is not None])

    def __getitem__(self, str address not None):
        mailbox = self.found(address)
        if mailbox is None:
            raise KeyError(address)
        return mailbox

    def __setitem__(self, str address not None, Mailbox mailbox not None):
        self.put(address, mailbox)

    def __delitem__(self, str address not None):
        if self.remove(address) is None:
            raise KeyError(address)

    def get(self, str address not None):
        """The mailbox, or None."""
        return self.found(address)

    def values(self):
        """The mailboxes there are now, in the order in which they came."""
        return [mailbox for mailbox in self.mailboxes if mailbox is not None]

    cdef Mailbox found(self, str address):
        cdef uint32_t index = self.places[self.place(address, <uint32_t>PyObject_Hash(address))].index
        if not index or <Py_ssize_t>index > PyList_GET_SIZE(self.mailboxes):
            return None
        return <Mailbox>self.mailboxes[index - 1]

    cdef size_t place(self, str address, uint32_t hashed):
        """The place of an address, or the empty one where it would be."""
        cdef size_t at = hashed & self.mask
        cdef uint32_t index
        cdef str other
        while True:
            index = self.places[at].index
            if not index or <Py_ssize_t>index > PyList_GET_SIZE(self.mailboxes):
                return at
            if self.places[at].hash == hashed:
                other = (<Mailbox>self.mailboxes[index - 1]).address
                if other is address or other == address:
                    return at
            at = (at + 1) & self.mask

    cdef int put(self, str address, Mailbox mailbox) except -1:
        """Take it, under its address, instead of another one of that address."""
        cdef uint32_t hashed = <uint32_t>PyObject_Hash(address)
        cdef size_t at
        self.check()
        if <size_t>self.count * 3 >= self.mask * 2:
            self.grow()
        at = self.place(address, hashed)
        if self.places[at].index:
            self.version += 1
            before, self.mailboxes[self.places[at].index - 1] = self.mailboxes[self.places[at].index - 1], mailbox
            return 0
        self.mailboxes.append(mailbox)
        self.places[at].hash, self.places[at].index = hashed, <uint32_t>PyList_GET_SIZE(self.mailboxes)
        self.count += 1
        self.version += 1
        return 0

    cdef Mailbox remove(self, str address):
        """Remove and return it, or None; places behind it move up, so that each is found from its own on."""
        self.check()
        cdef size_t at = self.place(address, <uint32_t>PyObject_Hash(address)), following = at, home
        cdef uint32_t index = self.places[at].index
        cdef Mailbox mailbox
        if not index:
            return None
        while True:
            following = (following + 1) & self.mask
            if not self.places[following].index:
                break
            home = self.places[following].hash & self.mask
            if ((following - home) & self.mask) >= ((following - at) & self.mask):
                self.places[at] = self.places[following]
                at = following
        self.places[at].index = 0
        self.count -= 1
        self.version += 1
        mailbox = <Mailbox>self.mailboxes[index - 1]  # its end, if it is that, comes when all is in order
        self.mailboxes[index - 1] = None
        if PyList_GET_SIZE(self.mailboxes) > 2 * self.count + GAPS_MIN:
            self.close_up()
        return mailbox

    cdef int check(self) noexcept:
        """If the collector has cleared the list, there is nothing any more."""
        if self.count and not PyList_GET_SIZE(self.mailboxes):
            memset(self.places, 0, (self.mask + 1) * sizeof(Place))
            self.count = 0
        return 0

    cdef int grow(self) except -1:
        cdef size_t mask = 2 * self.mask + 1, at, to
        cdef Place* places = <Place*>PyMem_RawCalloc(mask + 1, sizeof(Place))
        if places == NULL:
            raise MemoryError()
        for at in range(self.mask + 1):
            if self.places[at].index:
                to = self.places[at].hash & mask
                while places[to].index:
                    to = (to + 1) & mask
                places[to] = self.places[at]
        PyMem_RawFree(self.places)
        self.places, self.mask = places, mask
        return 0

    cdef int close_up(self) except -1:
        """Take the gaps out of the list."""
        cdef unsigned long long version = self.version
        cdef list left = self.values()
        if self.version != version:  # by a finalizer: a new list may run the collector; the next one will do
            return 0
        cdef Py_ssize_t size = PyList_GET_SIZE(self.mailboxes), index
        cdef uint32_t* moved = <uint32_t*>PyMem_RawCalloc(<size_t>size + 1, sizeof(uint32_t))
        cdef uint32_t count = 0
        cdef size_t at
        if moved == NULL:
            raise MemoryError()
        for index in range(size):
            if self.mailboxes[index] is not None:
                count += 1
                moved[index + 1] = count
        for at in range(self.mask + 1):
            self.places[at].index = moved[self.places[at].index]
        PyMem_RawFree(moved)
        self.mailboxes = left
        return 0

    cdef void near(self, uint64_t hashed) noexcept:
        """Ask memory for the place of an address."""
        prefetch(&self.places[hashed & self.mask], 1)

    cdef void nearer(self, uint64_t hashed) noexcept:
        """Ask memory for its mailbox, once the place is there."""
        cdef uint32_t index = self.places[hashed & self.mask].index
        if index and <Py_ssize_t>index <= PyList_GET_SIZE(self.mailboxes):
            prefetch(list_item(self.mailboxes, index - 1), 2)
