"""RunQueue: 8:3:1 between lanes, FIFO within, LOW never starves, and no agent with work is forgotten."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rookery.streams.core.mailbox import LANES, Item, Mailbox
from rookery.streams.core.runqueue import AGENT_COUNTS, CYCLE, RunQueue

ITEM = cast("Item", object())  # the queue doesn't look into items
LOW, NORMAL, HIGH = range(LANES)
# LOW waits at most so many turns of other lanes, whatever they do.
STARVATION_MAX = 12


def with_work(lane: int, count: int, name: str = "A") -> Mailbox:
    mailbox = Mailbox(f"{name}/{lane}", 0)
    mailbox.lanes[lane].extend([ITEM] * count)
    return mailbox


def serve(queue: RunQueue) -> int | None:
    """One turn: take the next mailbox, handle one item, queue it again."""
    work = queue.pop()
    if work is None:
        return None
    mailbox, lane = work
    mailbox.lanes[lane].popleft()
    for waiting in range(LANES):
        if mailbox.lanes[waiting]:
            queue.push(mailbox, waiting)
    return lane


def test_busy_lanes_share_8_to_3_to_1_over_any_stretch() -> None:
    queue = RunQueue()
    for lane in range(LANES):
        for name in "AB":
            queue.push(with_work(lane, 12_000, name), lane)
    served = [serve(queue) for _ in range(12_000)]
    assert Counter(served) == {HIGH: 8_000, NORMAL: 3_000, LOW: 1_000}
    for start in range(0, 12_000, 12):
        assert Counter(served[start : start + 12]) == {HIGH: 8, NORMAL: 3, LOW: 1}


@pytest.mark.parametrize(("busy", "share"), [({HIGH, LOW}, 8 / 9), ({HIGH, NORMAL}, 8 / 11), ({NORMAL, LOW}, 3 / 4)])
def test_two_busy_lanes_share_by_their_weights(busy: set[int], share: float) -> None:
    queue = RunQueue()
    for lane in busy:
        queue.push(with_work(lane, 9_000), lane)
    served = Counter(serve(queue) for _ in range(6_600))
    assert served[max(busy)] == pytest.approx(6_600 * share, abs=2)


def test_a_lane_that_is_alone_gets_everything_and_earns_no_debt() -> None:
    queue = RunQueue()
    queue.push(with_work(LOW, 500), LOW)
    assert [serve(queue) for _ in range(400)] == [LOW] * 400
    queue.push(with_work(HIGH, 500), HIGH)
    assert Counter(serve(queue) for _ in range(90)) == {HIGH: 80, LOW: 10}


@given(st.lists(st.sets(st.sampled_from([NORMAL, HIGH])), min_size=1, max_size=200))
def test_low_is_served_within_a_bound_however_the_others_come_and_go(arrivals: list[set[int]]) -> None:
    queue, waited = RunQueue(), 0
    queue.push(with_work(LOW, 1_000), LOW)
    for number, lanes in enumerate(arrivals):
        for lane in lanes:
            queue.push(with_work(lane, 1, f"B{number}"), lane)
        waited = 0 if serve(queue) == LOW else waited + 1
        assert waited <= STARVATION_MAX


def test_mailboxes_of_one_lane_take_turns_in_the_order_in_which_they_came() -> None:
    queue = RunQueue()
    for name in "ABC":
        queue.push(with_work(NORMAL, 2, name), NORMAL)
        queue.push(with_work(NORMAL, 2, name), NORMAL)  # another agent of the same name: queued on its own
    order = []
    while (work := queue.pop()) is not None:
        mailbox, lane = work
        order.append(mailbox.address[0])
        mailbox.lanes[lane].popleft()
        if mailbox.lanes[lane]:
            queue.push(mailbox, lane)
    assert "".join(order) == "AABBCC" * 2


def test_pushing_twice_queues_once() -> None:
    queue, mailbox = RunQueue(), with_work(NORMAL, 5)
    queue.push(mailbox, NORMAL)
    queue.push(mailbox, NORMAL)
    assert len(queue) == 1
    assert queue.pop() == (mailbox, NORMAL)
    assert queue.pop() is None


# -- no lost wake-up --------------------------------------------------------------------------------------------------


@dataclass
class Host:
    """What the engine does with mailboxes, without its I/O."""

    rng: random.Random
    queue: RunQueue
    mailboxes: list[Mailbox]
    running: list[Mailbox]
    handled: int = 0
    delivered: int = 0

    def deliver(self) -> None:
        mailbox, lane = self.rng.choice(self.mailboxes), self.rng.randrange(LANES)
        mailbox.lanes[lane].append(ITEM)
        self.delivered += 1
        if not mailbox.running:
            self.queue.push(mailbox, lane)

    def start(self) -> None:
        work = self.queue.pop()
        if work is not None:
            mailbox, lane = work
            assert not mailbox.running, "one turn of an agent at a time"
            assert not mailbox.closed
            mailbox.running = True
            mailbox.lanes[lane].popleft()
            self.running.append(mailbox)

    def end(self) -> None:
        if self.running:
            mailbox = self.running.pop(self.rng.randrange(len(self.running)))
            mailbox.running = False
            self.handled += 1
            for lane in range(LANES):
                if mailbox.lanes[lane] and not mailbox.closed:
                    self.queue.push(mailbox, lane)

    def close(self) -> None:
        index = self.rng.randrange(len(self.mailboxes))
        mailbox = self.mailboxes[index]
        mailbox.closed = True
        self.delivered -= len(mailbox)
        self.mailboxes[index] = Mailbox(mailbox.address, 0)

    def check(self) -> None:
        for mailbox in self.mailboxes:
            for lane in range(LANES):
                if mailbox.lanes[lane] and not mailbox.running:
                    assert mailbox.queued[lane], f"{mailbox.address} has work in lane {lane} and nobody knows"


@pytest.mark.parametrize("seed", range(20))
def test_an_agent_with_work_that_does_not_run_is_always_queued(seed: int) -> None:
    rng = random.Random(seed)
    host = Host(rng, RunQueue(), [Mailbox(f"A/{i}", 0) for i in range(6)], [])
    moves: list[Any] = [host.deliver] * 5 + [host.start] * 5 + [host.end] * 5
    for _ in range(600):
        (host.close if rng.random() < 0.01 else rng.choice(moves))()
        host.check()
    for _ in range(10_000):
        if host.handled == host.delivered:
            break
        host.start()
        host.end()
    assert host.handled == host.delivered
    assert host.queue.pop() is None
    assert not any(len(mailbox) for mailbox in host.mailboxes)


def test_the_weights_are_the_promised_ones() -> None:
    assert (CYCLE.count(HIGH), CYCLE.count(NORMAL), CYCLE.count(LOW)) == (8, 3, 1)


def test_what_ready_agents_hold_is_counted_by_lane_and_one_agent_counts_for_little() -> None:
    """Fetching goes by it: neither a backlog in another lane nor one agent's own may keep others from being fetched."""
    queue = RunQueue()
    assert not queue.holds(NORMAL, 1)
    for number in range(3):
        queue.push(with_work(NORMAL, 2, name=f"A{number}"), NORMAL)
    assert queue.holds(NORMAL, 6)
    assert not queue.holds(NORMAL, 7)
    assert not queue.holds(LOW, 1)
    queue.push(with_work(NORMAL, 10 * AGENT_COUNTS, name="Busy"), NORMAL)
    assert queue.holds(NORMAL, 6 + AGENT_COUNTS)
    assert not queue.holds(NORMAL, 7 + AGENT_COUNTS)
