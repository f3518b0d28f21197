# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Compiled twin of runqueue.py; see there."""

cimport cython

from rookery.streams.core._mailboxes cimport Mailbox, Waiting

# What runqueue.py, which imports this, tells it.
cdef Py_ssize_t AGENT_COUNTS = 0

# For each set of lanes with work (bits) and each place in the cycle: the lane to serve, and the place after it.
cdef int[8][12] LANE_NEXT
cdef int[8][12] PLACE_NEXT


def learn(choices, Py_ssize_t agent_counts):
    """Take the table of runqueue.py, and how many messages of an agent count."""
    global AGENT_COUNTS
    AGENT_COUNTS = agent_counts
    for waiting, row in enumerate(choices):
        for place, (lane, following) in enumerate(row):
            LANE_NEXT[waiting][place] = lane
            PLACE_NEXT[waiting][place] = following


@cython.final
cdef class RunQueue:
    """See runqueue.RunQueue."""

    def __init__(self):
        self.low, self.normal, self.high = Waiting(), Waiting(), Waiting()
        self.turn = 0

    cdef Waiting queue(self, int lane):
        if lane == 1:
            return self.normal
        return self.low if lane == 0 else self.high

    def __len__(self):
        return self.low.size() + self.normal.size() + self.high.size()

    def holds(self, int lane, Py_ssize_t count):
        """Whether ready agents have at least `count` messages in a lane, of each agent counted up to AGENT_COUNTS."""
        cdef Waiting queue = self.queue(lane)
        cdef Py_ssize_t index
        cdef Mailbox mailbox
        for index in range(queue.head, len(queue.items)):
            mailbox = queue.items[index]
            count -= min(mailbox.count(lane), AGENT_COUNTS)
            if count <= 0:
                return True
        return count <= 0

    cpdef void push(self, Mailbox mailbox, int lane):
        """Queue a mailbox for the work in one of its lanes; again has no effect until it was popped."""
        if not mailbox.in_queue[lane]:
            mailbox.in_queue[lane] = True
            self.queue(lane).push(mailbox)

    cpdef void push_waiting(self, Mailbox mailbox):
        """Queue a mailbox for every lane in which something waits."""
        cdef int lane
        for lane in range(3):
            if mailbox.waits(lane):
                self.push(mailbox, lane)

    cdef Mailbox take(self, int* lane):
        """The next mailbox that can run, and the lane to serve; None if there is none."""
        cdef Mailbox mailbox
        cdef int waiting
        while True:
            waiting = (
                (1 if self.low.size() else 0) | (2 if self.normal.size() else 0) | (4 if self.high.size() else 0)
            )
            if not waiting:
                return None
            lane[0] = LANE_NEXT[waiting][self.turn]
            self.turn = PLACE_NEXT[waiting][self.turn]
            mailbox = self.queue(lane[0]).popleft()
            mailbox.in_queue[lane[0]] = False
            if mailbox.waits(lane[0]) and not (mailbox.running or mailbox.held or mailbox.closed):
                return mailbox

    def pop(self):
        """See `take`."""
        cdef int lane = 0
        cdef Mailbox mailbox = self.take(&lane)
        return None if mailbox is None else (mailbox, lane)
