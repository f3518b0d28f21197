"""Does what the topics and the agents say fit what was sent? Pure functions, linear in the log.

The inboxes are the truth about what was to be done: of each stream (one sender, one agent, one lane) the first record
of each id, in the order of offsets. The agents' books must say exactly that; the journal is held against both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tests.chaos.evidence import (
    DEAD_LETTER_MISMATCH,
    DOUBLED,
    GHOST_SEND,
    LOST,
    LOST_SEND,
    ORDER_INVERSION,
    REPLY_DOUBLED,
    REPLY_LOST,
    STALE_ACCEPTED,
    STATE_DIVERGENCE,
    STUCK,
    Anomaly,
    Evidence,
    InboxRecord,
    Letter,
    Reply,
)
from tests.chaos.journals import Journals, read_journals
from tests.chaos.wire import LANES, Heard, Order
from tests.chaos.workload import ANSWER, DO, REPORT, chain

Place = tuple[int, int, int]
read_order = msgspec.json.Decoder(Order).decode


@dataclass(slots=True)
class Stream:
    """What one sender sent to one agent in one lane, as the log says."""

    count: int = 0
    last: int = 0
    digest: int = 0
    first_offset: int = -1
    last_offset: int = -1


@dataclass
class Log:
    """What the inboxes hold."""

    streams: dict[tuple[str, str, str], Stream] = field(default_factory=lambda: defaultdict(Stream))
    ids: dict[str, Place] = field(default_factory=dict)  # first occurrence
    sequenced: dict[str, Place] = field(default_factory=dict)  # those that agents sent
    values: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    balances: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    asked: dict[str, Place] = field(default_factory=dict)
    answers: list[Reply] = field(default_factory=list)  # of agents to agents
    repeats: int = 0
    handled: int = 0


def at(place: Place) -> str:
    """Coordinates for people."""
    lane, partition, offset = place
    return f"{LANES[lane]}-{partition}@{offset}"


def check(evidence: Evidence) -> tuple[list[Anomaly], Log, Journals]:
    """All anomalies, and what they were found in."""
    letters: dict[Place, list[Letter]] = defaultdict(list)
    for letter in evidence.letters:
        letters[letter.lane, letter.partition, letter.offset].append(letter)
    log = Log()
    found = list(_inboxes(evidence.records, letters, log))
    found += _letters_left(letters)
    found += _clients(evidence, log)
    found += _replies(evidence, log)
    journals = read_journals(evidence.journal)
    found += journals.anomalies
    found += _books(evidence, log, journals)
    if not evidence.compacted:
        found += _outboxes(log, journals)
    found += _ends(evidence, journals)
    return found, log, journals


# --- the inboxes, and what had to become a dead letter ---------------------------------------------------------------


def _inboxes(records: Iterable[InboxRecord], letters: dict[Place, list[Letter]], log: Log) -> Iterator[Anomaly]:
    for record in records:
        message = record.message
        if message is not None and message.id in log.ids:
            log.repeats += 1
            continue
        order = None if message is None else _order_of(message)
        ops = [] if order is None else [op[0] for op in order.ops]
        if message is not None and message.id:
            log.ids[message.id] = record.place
            if message.sequence:
                log.sequenced[message.id] = record.place
            if message.reply_to:
                log.asked[message.id] = record.place
            if message.type == ANSWER:
                log.answers.append(Reply(message.causation_id, message.id, at(record.place)))
        fails = order is None or "fail" in ops
        given_up = letters.pop(record.place, None)
        if fails or given_up:
            yield from _given_up(record, fails, "fickle" in ops, given_up or [])
            continue
        if message is not None and order is not None:
            log.handled += 1
            if message.type == DO:
                yield from _enter(log, record, message, order)


def _order_of(message: Heard) -> Order | None:
    """What a message asks for; None if no agent can know."""
    if message.type not in (DO, REPORT, ANSWER):
        return None
    try:
        return read_order(message.payload)
    except msgspec.DecodeError:
        return None


def _given_up(record: InboxRecord, fails: bool, may_fail: bool, letters: list[Letter]) -> Iterator[Anomaly]:
    subject = at(record.place)
    if not fails and not may_fail:
        yield Anomaly(DEAD_LETTER_MISMATCH, subject, f"given up as {letters[0].reason}, but it can be handled")
    elif fails and not letters:
        yield Anomaly(DEAD_LETTER_MISMATCH, subject, "it can't be handled, but there is no dead letter")
    for letter in letters:
        if letter.value != record.value:
            yield Anomaly(DEAD_LETTER_MISMATCH, subject, f"the letter {letter.at} holds other bytes than the record")


def _letters_left(letters: Mapping[Place, list[Letter]]) -> Iterator[Anomaly]:
    for place, some in letters.items():
        why = f"letter {some[0].at} ({some[0].reason}) for a record that is not there, or repeats one before it"
        yield Anomaly(DEAD_LETTER_MISMATCH, at(place), why)


def _enter(log: Log, record: InboxRecord, message: Heard, order: Order) -> Iterator[Anomaly]:
    """Enter a message in the books as its agent must."""
    target = message.target
    if order.n:
        stream = log.streams[message.sender, target, f"{record.lane}{'?' * order.asked}"]
        if message.sequence and order.n != stream.last + 1:
            subject = f"{message.sender} to {target}"
            if order.n <= stream.last:
                yield Anomaly(GHOST_SEND, subject, f"number {order.n} again under id {message.id}, {at(record.place)}")
            else:
                yield Anomaly(LOST_SEND, subject, f"number {order.n} after {stream.last}, {at(record.place)}")
        stream.count += 1
        stream.last = max(stream.last, order.n)
        stream.digest = chain(stream.digest, message.id)
        if stream.first_offset < 0:
            stream.first_offset = record.offset
        stream.last_offset = record.offset
    for op in order.ops:
        if op[0] == "add":
            log.values[target] += int(str(op[1]))
        elif op[0] == "take":
            log.balances[target] += int(str(op[1]))
        elif op[0] == "pay":
            log.balances[target] -= int(str(op[3]))


# --- clients ---------------------------------------------------------------------------------------------------------


def _clients(evidence: Evidence, log: Log) -> Iterator[Anomaly]:
    for send in evidence.sends:
        if send.acked and send.id not in log.ids:
            yield Anomaly(LOST, send.target, f"message {send.id} was acknowledged and is not in the log")


def _replies(evidence: Evidence, log: Log) -> Iterator[Anomaly]:
    answered: dict[str, dict[str, str]] = defaultdict(dict)
    for reply in (*evidence.replies, *log.answers):
        answered[reply.question].setdefault(reply.id, reply.at)
    for message_id, place in log.asked.items():
        ids = answered.get(message_id)
        if not ids:
            yield Anomaly(REPLY_LOST, message_id, f"asked at {at(place)}, never answered")
        elif len(ids) > 1:
            yield Anomaly(REPLY_DOUBLED, message_id, f"asked at {at(place)}, answered by {ids}")


# --- agents ----------------------------------------------------------------------------------------------------------


def _books(evidence: Evidence, log: Log, journals: Journals) -> Iterator[Anomaly]:
    """What agents say they heard and sent, against the log and the journal."""
    heard: dict[str, dict[str, Stream]] = defaultdict(dict)
    sent: dict[str, dict[str, Stream]] = defaultdict(dict)
    for (sender, target, lane), stream in log.streams.items():
        heard[target][f"{sender}|{lane}"] = stream
        sent[sender][f"{target}|{lane}"] = stream
    for agent, books in evidence.books.items():
        if books is None:
            yield Anomaly(STUCK, agent, "it did not answer")
            continue
        wrong = list(_heard(agent, books, heard[agent]))
        yield from wrong or _sums(agent, books, log)
        yield from _sent(agent, books, sent[agent])
        yield from _written(agent, books, journals.states.get(agent))


def _sums(agent: str, books: Mapping[str, Any], log: Log) -> Iterator[Anomaly]:
    for name, expected in (("value", log.values.get(agent, 0)), ("balance", log.balances.get(agent, 0))):
        if books[name] != expected:
            yield Anomaly(STATE_DIVERGENCE, agent, f"{name} is {books[name]}, by the log {expected}")
    if books["mixed"]:
        yield Anomaly(STATE_DIVERGENCE, agent, "a step gave what another call had made", books["mixed"])
    if books["backwards"]:
        yield Anomaly(STALE_ACCEPTED, agent, "the holder of an older token of a lock was let in", books["backwards"])


def _sent(agent: str, books: Mapping[str, Any], streams: Mapping[str, Stream]) -> Iterator[Anomaly]:
    for target, number in _union(books["sent"], streams):
        arrived, committed = streams.get(target, Stream()).last, number or 0
        if committed > arrived:
            yield Anomaly(LOST_SEND, f"{agent} to {target}", f"sent {committed}, {arrived} arrived")
        elif committed < arrived:
            yield Anomaly(GHOST_SEND, f"{agent} to {target}", f"sent {committed}, but {arrived} arrived")
    asked = sum(number for stream, number in books["sent"].items() if stream.endswith("?"))
    if asked != books["answered"]:
        name = REPLY_LOST if asked > books["answered"] else REPLY_DOUBLED
        yield Anomaly(name, agent, f"it asked {asked} times and took {books['answered']} answers")


def _written(agent: str, books: Mapping[str, Any], state: Mapping[str, Any] | None) -> Iterator[Anomaly]:
    """What the agent says against what the journal says of it."""
    if state is None:
        if books["heard"] or books["value"]:
            yield Anomaly(STATE_DIVERGENCE, agent, "the journal does not know it")
        return
    for name in ("heard", "sent", "value", "balance"):
        if state[name] != books[name]:
            yield Anomaly(STATE_DIVERGENCE, agent, f"{name}: the agent says {books[name]}, the journal {state[name]}")
            return


def _heard(agent: str, books: Mapping[str, Any], expected: Mapping[str, Stream]) -> Iterator[Anomaly]:
    odd: dict[str, list[Any]] = defaultdict(list)
    for stream, *rest in books["odd"]:
        odd[stream].append(rest)
    for name, got in _union(books["heard"], expected):
        stream = expected.get(name, Stream())
        count, last, digest = got or (0, 0, 0)
        if (count, last, digest) == (stream.count, stream.last, stream.digest):
            continue
        witness = (
            f"heard {count} up to number {last}; the log has {stream.count} up to {stream.last}, offsets "
            f"{stream.first_offset} to {stream.last_offset}; noticed [expected, number, id]: {odd[name][:3]}"
        )
        subject = f"{name} at {agent}"
        if count < stream.count:
            yield Anomaly(LOST, subject, witness, stream.count - count)
        elif count > stream.count:
            yield Anomaly(DOUBLED, subject, witness, count - stream.count)
        elif any(number < wanted for wanted, number, _ in odd[name]):
            yield Anomaly(ORDER_INVERSION, subject, witness)
        else:
            yield Anomaly(STATE_DIVERGENCE, subject, witness)


def _union(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name in {**one, **other}:
        yield name, one.get(name)


# --- outboxes and ends -----------------------------------------------------------------------------------------------


def _outboxes(log: Log, journals: Journals) -> Iterator[Anomaly]:
    """What committed turns sent, against what arrived."""
    for message_id, place in log.sequenced.items():
        if message_id in journals.sent:
            continue
        if message_id in journals.stale_sent:
            yield Anomaly(STALE_ACCEPTED, message_id, f"{at(place)} was sent by a batch that recovery ignores")
        else:
            yield Anomaly(GHOST_SEND, message_id, f"{at(place)} stands in no commit batch")
    for message_id, where in journals.sent.items():
        if message_id not in log.sequenced:
            yield Anomaly(LOST_SEND, message_id, f"committed in journal {where}, and in no inbox")


def _ends(evidence: Evidence, journals: Journals) -> Iterator[Anomaly]:
    for (lane, partition), end in evidence.ends.items():
        position = journals.positions.get(partition)
        prefix = 0 if position is None else position.lanes[lane].prefix
        if prefix < end:
            yield Anomaly(STUCK, f"{LANES[lane]}-{partition}", f"done up to {prefix}, the inbox ends at {end}")
    for cell, where in journals.cells.items():
        yield Anomaly(STUCK, cell.replace("\x1f", " "), f"is left in {where}")
    for partition, position in journals.positions.items():
        if position.sent_through < position.next_slot - 1:
            why = f"slots after {position.sent_through} of {position.next_slot - 1} are not sent"
            yield Anomaly(STUCK, f"outbox {partition}", why)
