"""What must hold after a run: pure functions of what was posted, stored and answered; each names the anomaly it finds.

    lost, doubled, lost-send, ghost-send, order-inversion        of messages
    reply-lost, reply-doubled, dead-letter-mismatch              of what clients and operators hear
    step-repeated                                                of durable steps
    stale-accepted, split-writer                                 of writers
    state-divergence, conservation                               of states
    stuck, defect                                                of the run itself

A message is known by its token: its unique name and the nonce of the attempt that sent it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from rookery.schemas.cells import Step, StepState, decode_cell, read_name
from rookery.schemas.deadletter import DeadLetter
from rookery.schemas.envelope import Envelope
from rookery.schemas.errors import AgentStopped, NotSpawned
from rookery.schemas.journal import KeyKind, split_key
from rookery.schemas.partition_errors import LogTruncated
from rookery.schemas.system import ASK_PREFIX, SPAWN, STOP
from tests.simulation.broker import Batch
from tests.simulation.evidence import (
    Evidence,
    Post,
    Reply,
    Token,
    accepted_batches,
    do_of,
    heard_of,
    messages,
    outbox,
    read,
    tokens,
)
from tests.simulation.fleet import BALANCE, Heard, Interpreter, fails, skips

Line = tuple[str, str, int]  # sender, target, priority: what order is promised within

LANES = ("low", "normal", "high")

# The state of an agent that has not handled anything.
UNTOUCHED: dict[str, Any] = msgspec.to_builtins(Interpreter.__rookery_type__.decode_state(None))


class Anomaly(NamedTuple):
    """Something that must never be."""

    name: str
    detail: str


def check(evidence: Evidence) -> list[Anomaly]:
    """All anomalies of a run."""
    e = evidence
    commands = {do.name: do.commands for do in messages(e)}
    failing = {name for name, told in commands.items() if fails(told)}
    skipped = {name for name, told in commands.items() if skips(told)}
    asks, heard, (gone, around) = asks_of(e.batches), heard_of(e.batches), deleted(e)
    sent, handled = sends_of(e.posts, e.books) | asks, handled_by(e.books) | heard_by(heard)
    stopped = {post.target for post in e.posts if post.system == STOP}
    unborn = {post.target for post in e.posts if post.system == SPAWN and post.name in gone}
    letters, expired, refused, mismatches = dead_letters(e.letters, e.inboxes, stopped, unborn)
    arrived = Counter(tokens(e))
    times, done = (Counter(name for line in lines.values() for name, _ in line) for lines in (sent, handled))
    missing = sum(
        command[1] * (times[name] - done[name])
        for name in around
        for command in commands.get(name, ())
        if command[0] == "take"
    )
    asked = expired & {name for line in asks.values() for name, _ in line}
    return [
        *mismatches,
        *deliveries(sent, handled, letters, arrived, skipped | gone, around),
        *failures(failing, skipped, handled, letters, asked | refused, gone),
        *lives(heard, e.posts),
        *replies(e.posts, e.replies, gone),
        *steps(e.batches, e.books),
        *writers(e.batches, e.accepted),
        *slots(e.batches, e.inboxes),
        *divergences("compacted journal", e.states, e.compacted),
        *divergences("memory of the owner", e.states, e.live),
        *divergences("answer of the agent", {a: e.states.get(a, UNTOUCHED) for a in e.answers}, e.answers),
        *counts(e.books, commands),
        *conservation(e.books, missing),
    ]


# -- messages ---------------------------------------------------------------------------------------------------------


def sends_of(posts: Iterable[Post], states: Mapping[str, Mapping[str, Any]]) -> dict[Line, list[Token]]:
    """What was sent, in order: by clients, and by committed turns."""
    sent: defaultdict[Line, list[Token]] = defaultdict(list)
    for post in posts:
        if not post.system:
            sent[f"client:{post.client}", post.target, post.priority].append((post.name, post.name))
    for address, state in states.items():
        for target, priority, name, _, nonce in state["sent"]:
            sent[address, target, priority].append((name, nonce))
    return dict(sent)


def asks_of(batches: Iterable[Iterable[Batch]]) -> dict[Line, list[Token]]:
    """What agents asked in their turns: committed by itself, whatever became of the turn, so in lines of their own."""
    asks: defaultdict[Line, dict[Token, None]] = defaultdict(dict)
    for stored in batches:
        for envelope in outbox(stored):  # a slot that was repaired is there twice
            if envelope.id.startswith(ASK_PREFIX) and (do := do_of(envelope)) is not None:
                asks[f"{envelope.sender} asks", envelope.target, int(envelope.priority)][do.name, envelope.id] = None
    return {line: list(tokens) for line, tokens in asks.items()}


def handled_by(states: Mapping[str, Mapping[str, Any]]) -> dict[Line, list[Token]]:
    """What agents handled, in order."""
    handled: defaultdict[Line, list[Token]] = defaultdict(list)
    for address, state in states.items():
        for sender, priority, name, number, nonce in state["handled"]:
            handled[sender if number else f"{sender} asks", address, priority].append((name, nonce))
    return dict(handled)


def heard_by(heard: Iterable[tuple[str, Heard]]) -> dict[Line, list[Token]]:
    """What mortal agents handled, in order."""
    handled: defaultdict[Line, list[Token]] = defaultdict(list)
    for address, of in heard:
        handled[of.sender, address, of.priority].append((of.name, of.nonce))
    return dict(handled)


def lives(heard: Iterable[tuple[str, Heard]], posts: Iterable[Post]) -> Iterator[Anomaly]:
    """The state of a mortal agent goes on from turn to turn, and begins anew only after a stop."""
    stops = Counter(post.target for post in posts if post.system == STOP)
    last, begun = Counter[str](), Counter[str]()
    for address, of in heard:
        begun[address] += of.count == 1
        if of.count not in {1, last[address] + 1} or begun[address] > stops[address] + 1:
            yield Anomaly("state-divergence", f"{address} counts {of.count} after {last[address]}")
        last[address] = of.count


def deleted(evidence: Evidence) -> tuple[set[str], set[str]]:
    """The ids and names of messages that retention deleted unhandled, as dead letters say, each of which has to be
    true; and of all that may have been deleted with them, handled or not."""
    gone, around = set[str](), set[str]()
    for letter in evidence.letters:
        place = letter.partition, LANES.index(letter.topic.rpartition(".")[2])
        start = evidence.starts.get(place, 0)
        if letter.reason == LogTruncated.reason and letter.last_offset < start:
            for offset, envelope in enumerate(evidence.inboxes[place][letter.offset : start], letter.offset):
                names = {envelope.id} if (do := do_of(envelope)) is None else {envelope.id, do.name}
                around |= names
                if offset <= letter.last_offset:
                    gone |= names
    return gone, around


def deliveries(
    sent: Mapping[Line, Sequence[Token]],
    handled: Mapping[Line, Sequence[Token]],
    letters: Mapping[Line, Sequence[Token]],
    arrived: Mapping[Token, int],
    skipped: Container[str] = (),
    around: Container[str] = (),
) -> Iterator[Anomaly]:
    """Each message that was sent is handled once or given up once, and no other; in each line in order. With what was
    deleted went what was known of its sources: what was done `around` it may be done again, if it is sent again."""
    for line in sorted({*sent, *handled, *letters}):
        expected, got, given_up = (list(given.get(line, ())) for given in (sent, handled, letters))
        ends = Counter(got) + Counter(given_up)
        for token in expected:
            if not ends[token] and token[0] not in skipped:
                name = "lost" if line[0].startswith("client:") or arrived.get(token) else "lost-send"
                yield Anomaly(name, f"{token} of {line}")
        for token, count in ends.items():
            if token not in expected:
                yield Anomaly("ghost-send", f"{token} of {line} was handled, but no committed turn sent it")
            elif count > 1 and token[0] not in around:
                yield Anomaly("doubled", f"{token} of {line}: {count} times")
        in_order = [token for token in expected if token in got]
        seen = [token for token in dict.fromkeys(got) if token in expected]
        if seen != in_order:
            yield Anomaly("order-inversion", f"{line}: sent {in_order}, handled {seen}")


def dead_letters(
    letters: Iterable[DeadLetter],
    inboxes: Mapping[tuple[int, int], Sequence[Envelope]],
    stopped: Container[str] = (),
    unborn: Container[str] = (),
) -> tuple[dict[Line, list[Token]], set[str], set[str], list[Anomaly]]:
    """Messages that were given up, by line, and the names of those that came too late, or to an agent that was
    `stopped` or never came to life; each letter has to be true. One that is stored twice counts once.
    """
    lines: defaultdict[Line, list[Token]] = defaultdict(list)
    expired, refused = set[str](), set[str]()
    anomalies: list[Anomaly] = []
    seen: dict[tuple[str, int, int], bytes] = {}
    for letter in letters:
        if letter.reason == LogTruncated.reason:
            continue
        place = letter.topic, letter.partition, letter.offset
        if place in seen:
            if seen[place] != letter.SerializeToString():
                anomalies.append(Anomaly("dead-letter-mismatch", f"two different letters for {place}"))
            continue
        seen[place] = letter.SerializeToString()
        envelope, do = read(letter.value), do_of(read(letter.value))
        lane = LANES.index(letter.topic.rpartition(".")[2])
        dead = envelope.target in stopped and letter.reason in {AgentStopped.reason, NotSpawned.reason}
        dead = dead or (envelope.target in unborn and letter.reason == NotSpawned.reason)
        log = inboxes.get((letter.partition, lane), ())
        if letter.offset >= len(log) or log[letter.offset] != envelope:
            anomalies.append(Anomaly("dead-letter-mismatch", f"the record at {place} is another one"))
        elif do is None:
            if dead:
                continue
            anomalies.append(Anomaly("dead-letter-mismatch", f"{place}: {letter.reason} {letter.error}"))
        else:
            sender = envelope.sender if do.number else f"{envelope.sender} asks"
            lines[sender, envelope.target, lane].append((do.name, do.nonce or envelope.id))
            if letter.reason == "expired":
                expired.add(do.name)
            if dead:
                refused.add(do.name)
    return dict(lines), expired, refused, anomalies


def failures(
    failing: set[str],
    skipped: set[str],
    handled: Mapping[Line, Sequence[Token]],
    letters: Mapping[Line, Sequence[Token]],
    excused: set[str],
    lost: Container[str] = (),
) -> Iterator[Anomaly]:
    """Dead letters are those messages whose turns were told to fail, one for one, and the `excused`."""
    done = {name for tokens in handled.values() for name, _ in tokens}
    given_up = {name for tokens in letters.values() for name, _ in tokens}
    for name in sorted(given_up - failing - excused):
        yield Anomaly("dead-letter-mismatch", f"{name} was given up, its turn should have succeeded, or left nothing")
    for name in sorted((failing | skipped) & done):
        yield Anomaly("dead-letter-mismatch", f"{name} was handled, its turn should have failed")
    for name in sorted(failing - given_up - done):
        if name in lost:
            continue
        yield Anomaly("dead-letter-mismatch", f"{name} failed without a dead letter")


def slots(
    batches: Sequence[Sequence[Batch]], inboxes: Mapping[tuple[int, int], Sequence[Envelope]]
) -> Iterator[Anomaly]:
    """Whatever arrived from an agent stands in an accepted outbox slot of its source, and the other way round."""
    committed = {
        (source, envelope.delivery.sequence): envelope.SerializeToString()
        for source, stored in enumerate(batches)
        for envelope in outbox(stored)
    }
    arrived = {
        (envelope.delivery.source, envelope.delivery.sequence): envelope.SerializeToString()
        for log in inboxes.values()
        for envelope in log
        if envelope.delivery.sequence
    }
    for origin, body in arrived.items():
        if committed.get(origin) != body:
            yield Anomaly("ghost-send", f"{origin} arrived, but was never committed like that")
    for origin in sorted(committed.keys() - arrived.keys()):
        yield Anomaly("lost-send", f"{origin} was committed, but never arrived")


# -- replies ----------------------------------------------------------------------------------------------------------


def replies(posts: Iterable[Post], got: Iterable[Reply], gone: Container[str] = ()) -> Iterator[Anomaly]:
    """Every ask has one reply, unless it is `gone`; a record of it may be stored again, but it says the same."""
    asked = {post.name for post in posts if post.asks}
    answers: defaultdict[str, set[tuple[str, bytes]]] = defaultdict(set)
    for reply in got:
        answers[reply.correlation].add((reply.id, reply.payload))
    for name in sorted(asked - answers.keys()):
        if name not in gone:
            yield Anomaly("reply-lost", f"{name} was asked and never answered")
    for name, different in sorted(answers.items()):
        if name not in asked or len(different) > 1:
            yield Anomaly("reply-doubled", f"{name}: {sorted(different)}")


# -- steps ------------------------------------------------------------------------------------------------------------


def steps(batches: Iterable[Iterable[Batch]], states: Mapping[str, Mapping[str, Any]]) -> Iterator[Anomaly]:
    """A step that is done has one result, and the turn goes on with that; an ask is answered with its own reply."""
    results: defaultdict[bytes, set[bytes]] = defaultdict(set)
    for key, step in _steps_of(batches):
        if step.state is StepState.DONE:
            results[key].add(step.payload)
    for key, different in results.items():
        if len(different) > 1:
            yield Anomaly("step-repeated", f"{key!r}: {sorted(different)}")
    drawn = {payload for different in results.values() for payload in different}
    for address, state in states.items():
        for name, result in state["results"]:
            if msgspec.json.encode(result) not in drawn:
                yield Anomaly("step-repeated", f"{address} went on with {result} in {name}, which no step committed")
        for name, answer in state["asked"]:
            if answer not in {name, "AgentError", "AskTimeout", "AskCycle"}:
                yield Anomaly("reply-doubled", f"{address} got the reply to {answer} when it asked {name}")


def _steps_of(batches: Iterable[Iterable[Batch]]) -> Iterator[tuple[bytes, Step]]:
    """The step cells that were accepted, in the order in which they were written."""
    for stored in batches:
        for batch in accepted_batches(stored):
            for key, value in batch.records:
                named = split_key(key)
                if value is not None and named.kind is KeyKind.CELL and read_name(named.cell).form is Step:
                    yield key, decode_cell(value, Step)


# -- writers ----------------------------------------------------------------------------------------------------------


def writers(batches: Sequence[Sequence[Batch]], accepted: Iterable[tuple[str, int, int, int]]) -> Iterator[Anomaly]:
    """What a worker took for committed was written in one unbroken chain from its claim on, by nobody else."""
    for (process, partition, lease), last in {chain[:3]: chain[3] for chain in accepted}.items():
        for batch in batches[partition]:
            if lease < batch.base <= last and batch.lease != lease:
                name = "stale-accepted" if batch.lease > lease else "split-writer"
                yield Anomaly(name, f"{process} went on in journal {partition} with lease {lease} after {batch.lease}")
                break


# -- states -----------------------------------------------------------------------------------------------------------


def divergences(
    where: str, expected: Mapping[str, Mapping[str, Any]], found: Mapping[str, Mapping[str, Any]]
) -> Iterator[Anomaly]:
    """Every witness tells the same state of each agent."""
    for address in sorted({*expected, *found}):
        if expected.get(address) != found.get(address):
            yield Anomaly("state-divergence", f"{address}: the journal and the {where} differ")


def unchanged(before: Evidence, after: Evidence) -> Iterator[Anomaly]:
    """A new start from the compacted journal changes nothing."""
    yield from divergences("memory after a new start", before.states, after.live)
    yield from divergences("answer after a new start", before.answers, after.answers)


def counts(states: Mapping[str, Mapping[str, Any]], commands: Mapping[str, Sequence[Any]]) -> Iterator[Anomaly]:
    """The state of an agent is that of the turns in its list."""
    for address, state in states.items():
        told = [command for _, _, name, _, _ in state["handled"] for command in commands.get(name, ())]
        count = sum(command[1] for command in told if command[0] == "add")
        balance = BALANCE + sum(
            command[1] if command[0] == "take" else -command[3] for command in told if command[0] in {"take", "give"}
        )
        if (count, balance) != (state["count"], state["balance"]):
            yield Anomaly("state-divergence", f"{address}: {(count, balance)} by its list, not {state}")


def conservation(states: Mapping[str, Mapping[str, Any]], lost: int = 0) -> Iterator[Anomaly]:
    """What one gives another takes, but for what was `lost` on the way."""
    total = sum(state["balance"] - BALANCE for state in states.values()) + lost
    if total:
        yield Anomaly("conservation", f"{total} too much")
