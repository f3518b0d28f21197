"""Partition: what a commit batch holds, in which order, within which bounds, and what its acknowledgement releases."""

from __future__ import annotations

import random
from collections import defaultdict
from itertools import pairwise
from typing import NamedTuple

import pytest

from rookery.schemas.envelope import Priority, decode, encode_body
from rookery.schemas.journal import POSITION, Position, Slot, decode_position, decode_slot
from rookery.streams.core.batch import CommitBatch, Finished, Limits, NotContiguous, Sent
from rookery.streams.core.fold import Recovered
from rookery.streams.core.mailbox import Mailbox
from rookery.streams.core.outbox import Destination, Group
from rookery.streams.core.partition import Partition
from rookery.streams.core.store import Mark, MemoryStore
from tests.cases import quick

CLAIM_OFFSET = 100
LIMITS = Limits(batch_bytes_max=3_000, batch_turns_max=7, window_max=1_000, ring=2, dedup_window=10)
NUMBER, PARTITIONS = 1, 2
DESTINATIONS: list[Destination] = [("t", 0), ("t", 1), ("u", 0)]


def fresh(limits: Limits = LIMITS, **recovered: object) -> Partition:
    fields = {"position": None, "store": MemoryStore(), "unsent": [], "repair": {}, "ignored_count": 0} | recovered
    return Partition(NUMBER, PARTITIONS, Recovered(CLAIM_OFFSET, **fields), [(0, 10**6)] * 3, limits)  # type: ignore[arg-type]


def message(destination: Destination, text: str, size: int = 10) -> Sent:
    body = encode_body("A/1", "B/1", b"x" * size, 1, Priority.NORMAL, text, "M", "application/json")
    return Sent(destination, b"B/1", body, sequenced=True)


def turn(partition: Partition, mailbox: Mailbox | None, state: bytes | None, *sent: Sent, lane: int = 1) -> Finished:
    """Admit one record and finish its turn."""
    progress = partition.lanes[lane]
    offset = progress.next
    assert progress.admit_outside("")
    finished = Finished(mailbox, lane, offset, state, sent)
    partition.finish(finished)
    return finished


def mailboxes(partition: Partition, count: int) -> list[Mailbox]:
    made = [Mailbox(f"A/{i}", NUMBER) for i in range(count)]
    for mailbox in made:
        partition.mailboxes[mailbox.address] = mailbox
    return made


def slot_of(batch: CommitBatch) -> Slot | None:
    values = [value for key, value in batch.records.items() if key.startswith(b"~out/")]
    assert len(values) <= 1, "one slot holds all that a batch sends"
    return decode_slot(values[0] or b"") if values else None


def position_of(batch: CommitBatch) -> Position:
    return decode_position(batch.records[POSITION] or b"")


def size_of(batch: CommitBatch) -> int:
    return sum(len(key) + len(value or b"") for key, value in batch.records.items())


def settle(groups: list[tuple[Destination, Group]]) -> None:
    """All that was released has been sent."""
    for _, group in groups:
        group.outbox.acknowledge(group.number, len(group.messages))


# -- random lives -----------------------------------------------------------------------------------------------------


class Done(NamedTuple):
    """A finished turn, as the test remembers it."""

    finished: Finished
    texts: tuple[tuple[Destination, str], ...]


class Life:
    """A partition under random turns, acks and shipping, beside what has to come of it."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.partition = fresh()
        self.agents = mailboxes(self.partition, 4)
        self.waiting: list[Done] = []
        self.released: list[tuple[Destination, Group]] = []
        self.end = CLAIM_OFFSET + 1
        self.sequences: list[int] = []
        self.sent: dict[Destination, list[str]] = defaultdict(list)
        self.truth: dict[bytes, bytes] = {}
        self.met: set[Mailbox | None] = set()  # agents with turns that were set aside since nothing was waiting
        self.count = 0

    def finish(self) -> None:
        rng, agent = self.rng, self.rng.choice(self.agents)
        sends = [
            message(rng.choice(DESTINATIONS), f"m{self.count}.{i}", rng.randrange(300))
            for i in range(rng.choice([0, 0, 1, 2]))
        ]
        state = rng.choice([None, b"state %d" % self.count + b"." * rng.randrange(200)])
        self.count += 1
        finished = turn(self.partition, agent, state, *sends, lane=rng.randrange(3))
        assert self.partition.fits(finished)
        texts = tuple((s.destination, f"m{self.count - 1}.{i}") for i, s in enumerate(sends))
        self.waiting.append(Done(finished, texts))

    def expected(self, room: bool) -> list[Done]:
        """Everything in order; without room in the ring, no turn that sends and none after it of the same agent."""
        taken, blocked = [], set()
        for done in self.waiting:
            agent = done.finished.mailbox
            if not room and (done.texts or agent in blocked):
                blocked.add(agent)
            else:
                taken.append(done)
        return taken

    def build(self) -> None:
        partition = self.partition
        if partition.flight is not None:
            assert partition.build(progress_due=True) is None, "one batch in flight"
            return
        room = partition.outbox.has_room
        expected = self.expected(room)
        batch = partition.build()
        if not room:  # what was set aside stays there until there is room, even if it would not be met again
            here = {id(turn) for turn in batch.turns} if batch is not None else set()
            expected = [d for d in expected if d.finished.mailbox not in self.met or id(d.finished) in here]
            self.met |= {done.finished.mailbox for done in self.waiting if done not in expected}
        if batch is None:
            assert not expected
            return
        taken = expected[: len(batch.turns)]
        assert batch.turns == [done.finished for done in taken]
        assert len(batch.turns) <= LIMITS.batch_turns_max
        assert size_of(batch) <= LIMITS.batch_bytes_max
        if len(taken) < min(len(expected), LIMITS.batch_turns_max):
            assert sum(done.finished.size for done in expected[: len(taken) + 1]) > LIMITS.batch_bytes_max / 2
        slot, position = slot_of(batch), position_of(batch)
        assert (slot is not None) == any(done.texts for done in taken)
        sent = position.sent_through
        if slot is not None:
            assert slot.number == batch.number == position.next_slot - 1
            assert slot.number - LIMITS.ring <= sent, "the slot's old content has been sent, says the same batch"
        by_sequence = {}
        for destination, messages in slot.messages.items() if slot else ():
            envelopes = [decode(value) for _, value in messages]
            assert [e.id for e in envelopes] == [t for done in taken for d, t in done.texts if d == destination]
            assert all(a.delivery.sequence < b.delivery.sequence for a, b in pairwise(envelopes))
            assert {e.delivery.source for e in envelopes} == {NUMBER}
            by_sequence.update({e.delivery.sequence: e.id for e in envelopes})
        assert [by_sequence[s] for s in sorted(by_sequence)] == [text for done in taken for _, text in done.texts]
        self.sequences += sorted(by_sequence)
        assert position.next_sequence == len(self.sequences) + 1
        self.waiting = [done for done in self.waiting if done not in taken]
        if not self.waiting:
            self.met.clear()
        for done in taken:
            agent = done.finished.mailbox
            if done.finished.state is not None and agent is not None:
                self.truth[agent.key] = done.finished.state
        undone = {(done.finished.lane, done.finished.offset) for done in self.waiting}
        for number, lane in enumerate(position.lanes):
            assert lane.prefix == min((o for n, o in undone if n == number), default=partition.lanes[number].next)

    def ack(self) -> None:
        batch = self.partition.flight
        if batch is None:
            return
        groups = self.partition.acked(self.end)
        self.end += len(batch.records)
        self.released += groups
        for destination, group in groups:
            self.sent[destination] += [decode(value).id for _, value in group.messages]
        assert isinstance(self.partition.store, MemoryStore)
        assert dict(self.partition.store.values.items()) == self.truth
        assert self.partition.store.mark == Mark(self.end, CLAIM_OFFSET)
        unsettled = [done.finished.mailbox for done in self.waiting]
        assert all(agent.unsettled == unsettled.count(agent) for agent in self.agents)

    def ship(self) -> None:
        if self.released:
            settle([self.released.pop(self.rng.randrange(len(self.released)))])


@pytest.mark.parametrize("seed", quick(range(8), 2))
def test_batches_keep_order_bounds_and_the_ring(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(30):
        life = Life(rng)
        moves = [life.finish] * rng.randint(2, 8) + [life.build, life.build, life.ack, life.ack, life.ship]
        for _ in range(rng.randrange(150)):
            rng.choice(moves)()
        for _ in range(1_000):
            if not life.waiting and life.partition.flight is None:
                break
            for move in (life.build, life.ack, life.ship, life.ship, life.ship):
                move()
        assert not life.waiting
        assert life.sequences == list(range(1, len(life.sequences) + 1)), "+1 per message in commit order"
        for texts in life.sent.values():
            assert len(set(texts)) == len(texts), "nothing is released twice"
        assert sum(map(len, life.sent.values())) == len(life.sequences)


# -- one thing at a time ----------------------------------------------------------------------------------------------


def acked(partition: Partition, batch: CommitBatch) -> list[tuple[Destination, Group]]:
    assert batch is partition.flight
    return partition.acked(partition.last + 1)


def test_a_full_ring_stops_what_sends_and_what_the_same_agents_did_after_and_nothing_else() -> None:
    partition = fresh()
    sender, quiet = mailboxes(partition, 2)
    groups = []
    for i in range(LIMITS.ring):
        turn(partition, sender, b"s%d" % i, message(("t", 0), f"m{i}"))
        batch = partition.build()
        assert batch is not None
        groups.append(acked(partition, batch))
    assert not partition.outbox.has_room
    turn(partition, sender, b"sends", message(("t", 0), "late"))
    turn(partition, sender, b"after")
    turn(partition, quiet, b"quiet")
    batch = partition.build()
    assert batch is not None
    assert batch.records.keys() == {b"A/1", POSITION}
    lane = position_of(batch).lanes[1]
    assert (lane.prefix, lane.ranges()) == (2, [(4, 5)])
    assert acked(partition, batch) == []
    assert partition.build(progress_due=True) is None, "nothing can be written until a slot is free"
    settle(groups[0])
    batch = partition.build()
    assert batch is not None
    assert batch.records[b"A/0"] == b"after"
    assert batch.number == LIMITS.ring + 1
    assert position_of(batch).sent_through == 1


def test_a_turn_as_large_as_a_batch_goes_alone_and_a_larger_one_does_not_fit() -> None:
    partition = fresh()
    (agent,) = mailboxes(partition, 1)
    turn(partition, agent, b"small")
    large = turn(partition, agent, b"x" * 2_550)
    turn(partition, agent, b"end")
    assert partition.fits(large)
    assert not partition.fits(Finished(agent, 1, 9, b"x" * 3_000, ()))
    sizes = []
    while (batch := partition.build()) is not None:
        sizes.append(len(batch.turns))
        assert size_of(batch) <= LIMITS.batch_bytes_max
        acked(partition, batch)
    assert sizes == [1, 1, 1]


def test_turns_of_one_agent_write_its_state_once_a_batch() -> None:
    partition = fresh()
    (agent,) = mailboxes(partition, 1)
    for i in range(5):
        turn(partition, agent, b"%d" % i)
    batch = partition.build()
    assert batch is not None
    assert batch.records.keys() == {b"A/0", POSITION}
    assert batch.records[b"A/0"] == b"4"


def test_an_ack_elsewhere_than_after_our_last_record_is_refused() -> None:
    partition = fresh()
    (agent,) = mailboxes(partition, 1)
    turn(partition, agent, b"s", message(("t", 0), "m"))
    assert partition.build() is not None
    with pytest.raises(NotContiguous):
        partition.acked(CLAIM_OFFSET + 2)
    assert not len(partition.store)


def test_contiguity_counts_every_record_of_a_batch() -> None:
    partition = fresh()
    one, two = mailboxes(partition, 2)
    turn(partition, one, b"1", message(("t", 0), "m"))
    turn(partition, two, b"2")
    assert partition.build() is not None
    partition.acked(CLAIM_OFFSET + 1)
    assert partition.last == CLAIM_OFFSET + 4, "two agents, a slot, the position"
    turn(partition, one, b"3")
    assert partition.build() is not None
    with pytest.raises(NotContiguous):
        partition.acked(CLAIM_OFFSET + 2)


def test_progress_alone_is_written_when_due_and_once() -> None:
    partition = fresh()
    partition.lanes[0].admit(0, 5)
    partition.lanes[0].done(0)
    batch = partition.build()
    assert batch is None, "not due"
    batch = partition.build(progress_due=True)
    assert batch is not None
    assert batch.records.keys() == {POSITION}
    assert list(position_of(batch).lanes[0].seen) == [5, 0]
    acked(partition, batch)
    assert partition.build(progress_due=True) is None
    assert partition.build(refresh=True) is not None, "so that brokers keep the producer"


def test_acknowledged_messages_are_progress_too() -> None:
    partition = fresh()
    (agent,) = mailboxes(partition, 1)
    turn(partition, agent, None, message(("t", 0), "m"))
    batch = partition.build()
    assert batch is not None
    groups = acked(partition, batch)
    assert partition.build(progress_due=True) is None
    settle(groups)
    batch = partition.build(progress_due=True)
    assert batch is not None
    assert position_of(batch).sent_through == 1


def test_a_tombstone_waits_until_everything_before_the_stop_is_settled() -> None:
    partition = fresh()
    agent, other = mailboxes(partition, 2)
    progress = partition.lanes[1]
    assert progress.admit_outside("")  # of the other agent, in flight
    stop = turn(partition, agent, b"retired")
    partition.retiring[agent.address] = (0, stop.offset + 1, 0)
    batch = partition.build()
    assert batch is not None
    assert batch.records[agent.key] == b"retired", "until then a repeat must find the agent stopped"
    acked(partition, batch)
    assert partition.build(progress_due=True) is None
    partition.finish(Finished(other, 1, 0, None, ()))
    batch = partition.build()
    assert batch is not None
    assert batch.records[agent.key] is None
    acked(partition, batch)
    assert not len(partition.store)
    assert partition.retiring == {}


def test_a_tombstone_waits_for_the_agent_to_be_idle() -> None:
    partition = fresh()
    (agent,) = mailboxes(partition, 1)
    stop = turn(partition, agent, b"retired")
    partition.retiring[agent.address] = (0, stop.offset + 1, 0)
    agent.running = True
    batch = partition.build()
    assert batch is not None
    acked(partition, batch)
    assert partition.build(progress_due=True) is None
    agent.running = False
    batch = partition.build()
    assert batch is not None
    assert batch.records[agent.key] is None


def test_repairs_go_with_the_first_batches_and_a_newer_value_repairs_too() -> None:
    repair: dict[bytes, bytes | None] = {b"A/%d" % i: b"true" + b"." * 400 for i in range(9)}
    repair |= {b"B/1": None, b"~out/1": None}
    partition = fresh(repair=dict(repair), store=MemoryStore({key: value for key, value in repair.items() if value}))
    (agent,) = mailboxes(partition, 1)
    turn(partition, agent, b"newer")
    written: dict[bytes, bytes | None] = {}
    batches = 0
    while (batch := partition.build()) is not None:
        assert size_of(batch) <= LIMITS.batch_bytes_max
        batches += 1
        assert batch.records.keys().isdisjoint(written.keys() - {POSITION}), "each once"
        written |= batch.records
        acked(partition, batch)
        assert partition.store.mark.stale == repair.keys() - written.keys(), "what is left to repair survives a restart"
    del written[POSITION]
    assert batches > 1, "as much as fits"
    assert written == repair | {b"A/0": b"newer"}
    assert partition.store.get(b"A/0") == b"newer"


def test_closing_gives_the_running_mailboxes_and_ends_everything() -> None:
    partition = fresh()
    running, idle = mailboxes(partition, 2)
    running.running = True
    turn(partition, idle, b"s")
    assert partition.close() == [running]
    assert partition.build(progress_due=True, refresh=True) is None
    assert partition.outbox.closed
    assert running.closed
    assert idle.closed


def test_the_ring_changes_only_while_it_is_empty() -> None:
    lanes = [lane.position() for lane in fresh().lanes]
    busy = Position(lanes, next_slot=5, next_sequence=9, sent_through=3, ring=8, partitions=PARTITIONS)
    assert fresh(position=busy).outbox.ring == 8
    empty = Position(lanes, next_slot=5, next_sequence=9, sent_through=4, ring=8, partitions=PARTITIONS)
    assert fresh(position=empty).outbox.ring == LIMITS.ring
    assert fresh(position=empty).sequence == 9
