"""What must hold after a run: pure functions of what was posted, stored and answered; each names the anomaly it finds.

    lost, doubled, lost-send, ghost-send, order-inversion        of messages
    reply-lost, reply-doubled, dead-letter-mismatch              of what clients and operators hear
    stale-accepted, split-writer                                 of writers
    state-divergence, conservation                               of states
    stuck, defect                                                of the run itself

A message is known by its token: its unique name and the nonce of the attempt that sent it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from rookery.schemas.deadletter import DeadLetter, decode_dead_letter
from rookery.schemas.envelope import Envelope, decode
from rookery.schemas.journal import SLOT_PREFIX, Key, KeyKind, decode_agent, decode_slot, split_key
from tests.simulation.broker import Batch
from tests.simulation.fleet import BALANCE, Do, Interpreter, fails

if TYPE_CHECKING:
    from tests.simulation.world import World

Token = tuple[str, str]  # name, nonce
Line = tuple[str, str, int]  # sender, target, priority: what order is promised within


class Anomaly(NamedTuple):
    """Something that must never be."""

    name: str
    detail: str


@dataclass(frozen=True)
class Post:
    """A message of a client, in the order in which it was stored first."""

    client: str
    target: str
    priority: int
    name: str
    number: int
    asks: bool
    fails: bool
    system: bool = False


@dataclass
class Reply:
    """A record on a client's reply topic."""

    correlation: str
    id: str
    payload: bytes


@dataclass
class Evidence:
    """Everything that the checks look at."""

    posts: Sequence[Post]
    batches: Sequence[Sequence[Batch]]  # by partition, as stored
    compacted: Mapping[str, dict[str, Any]]  # states by address, folded from what compaction left
    live: Mapping[str, dict[str, Any]]  # as the owners have them
    answers: Mapping[str, dict[str, Any]]  # as the agents say
    inboxes: Mapping[tuple[int, int], Sequence[Envelope]]  # by partition and lane
    letters: Sequence[DeadLetter]
    replies: Sequence[Reply]
    accepted: Sequence[tuple[str, int, int, int]]  # (process, partition, lease, last offset) in the order of acks
    states: dict[str, dict[str, Any]] = field(init=False)  # by address, folded from all that was ever stored

    def __post_init__(self) -> None:
        self.states = {}
        for batches in self.batches:
            self.states |= states_of(fold(batches))


def check(evidence: Evidence) -> list[Anomaly]:
    """All anomalies of a run."""
    e = evidence
    commands = {do.name: do.commands for do in _messages(e)}
    failing = {name for name, told in commands.items() if fails(told)}
    sent, handled = sends_of(e.posts, e.states), handled_by(e.states)
    letters, mismatches = dead_letters(e.letters, e.inboxes)
    arrived = Counter(_tokens(e))
    return [
        *mismatches,
        *deliveries(sent, handled, letters, arrived),
        *failures(failing, handled, letters, set(commands)),
        *replies(e.posts, e.replies),
        *writers(e.batches, e.accepted),
        *slots(e.batches, e.inboxes),
        *divergences("compacted journal", e.states, e.compacted),
        *divergences("memory of the owner", e.states, e.live),
        *divergences("answer of the agent", {a: s for a, s in e.states.items() if a in e.answers}, e.answers),
        *counts(e.states, commands),
        *conservation(e.states),
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


def handled_by(states: Mapping[str, Mapping[str, Any]]) -> dict[Line, list[Token]]:
    """What agents handled, in order."""
    handled: defaultdict[Line, list[Token]] = defaultdict(list)
    for address, state in states.items():
        for sender, priority, name, _, nonce in state["handled"]:
            handled[sender, address, priority].append((name, nonce))
    return dict(handled)


def deliveries(
    sent: Mapping[Line, Sequence[Token]],
    handled: Mapping[Line, Sequence[Token]],
    letters: Mapping[Line, Sequence[Token]],
    arrived: Mapping[Token, int],
) -> Iterator[Anomaly]:
    """Each message that was sent is handled once or given up once, and no other; in each line in order."""
    for line in sorted({*sent, *handled, *letters}):
        expected, got, given_up = (list(given.get(line, ())) for given in (sent, handled, letters))
        ends = Counter(got) + Counter(given_up)
        for token in expected:
            if not ends[token]:
                name = "lost" if line[0].startswith("client:") or arrived.get(token) else "lost-send"
                yield Anomaly(name, f"{token} of {line}")
        for token, count in ends.items():
            if token not in expected:
                yield Anomaly("ghost-send", f"{token} of {line} was handled, but no committed turn sent it")
            elif count > 1:
                yield Anomaly("doubled", f"{token} of {line}: {count} times")
        in_order = [token for token in expected if token in got]
        seen = [token for token in dict.fromkeys(got) if token in expected]
        if seen != in_order:
            yield Anomaly("order-inversion", f"{line}: sent {in_order}, handled {seen}")


def dead_letters(
    letters: Iterable[DeadLetter], inboxes: Mapping[tuple[int, int], Sequence[Envelope]]
) -> tuple[dict[Line, list[Token]], list[Anomaly]]:
    """Messages that were given up, by line; a letter that is stored twice counts once. Each has to be true."""
    lines: defaultdict[Line, list[Token]] = defaultdict(list)
    anomalies: list[Anomaly] = []
    seen: dict[tuple[str, int, int], bytes] = {}
    for letter in letters:
        place = letter.topic, letter.partition, letter.offset
        if place in seen:
            if seen[place] != letter.SerializeToString():
                anomalies.append(Anomaly("dead-letter-mismatch", f"two different letters for {place}"))
            continue
        seen[place] = letter.SerializeToString()
        envelope, do = decode(letter.value), _do(decode(letter.value))
        lane = ("low", "normal", "high").index(letter.topic.rpartition(".")[2])
        log = inboxes.get((letter.partition, lane), ())
        if letter.offset >= len(log) or log[letter.offset] != envelope:
            anomalies.append(Anomaly("dead-letter-mismatch", f"the record at {place} is another one"))
        elif do is None:
            anomalies.append(Anomaly("dead-letter-mismatch", f"{place}: {letter.reason} {letter.error}"))
        else:
            lines[envelope.sender, envelope.target, lane].append((do.name, do.nonce))
    return dict(lines), anomalies


def failures(
    failing: set[str],
    handled: Mapping[Line, Sequence[Token]],
    letters: Mapping[Line, Sequence[Token]],
    known: set[str],
) -> Iterator[Anomaly]:
    """Dead letters are those messages whose turns were told to fail, one for one."""
    done = {name for tokens in handled.values() for name, _ in tokens}
    given_up = {name for tokens in letters.values() for name, _ in tokens}
    for name in sorted(given_up - failing):
        yield Anomaly("dead-letter-mismatch", f"{name} was given up, its turn should have succeeded")
    for name in sorted(failing & done):
        yield Anomaly("dead-letter-mismatch", f"{name} was handled, its turn should have failed")
    for name in sorted((failing & known) - given_up - done):
        yield Anomaly("dead-letter-mismatch", f"{name} failed without a dead letter")


def slots(
    batches: Sequence[Sequence[Batch]], inboxes: Mapping[tuple[int, int], Sequence[Envelope]]
) -> Iterator[Anomaly]:
    """Whatever arrived from an agent stands in an accepted outbox slot of its source, and the other way round."""
    committed = {
        (source, envelope.delivery.sequence): envelope.SerializeToString()
        for source, stored in enumerate(batches)
        for envelope in _outbox(stored)
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


def _outbox(batches: Iterable[Batch]) -> Iterator[Envelope]:
    """All messages to agents in the accepted slots of a journal."""
    for batch in accepted_batches(batches):
        for key, value in batch.records:
            if key.startswith(SLOT_PREFIX) and value is not None:
                for (topic, _), messages in decode_slot(value).messages.items():
                    if ".inbox." in topic:
                        yield from (decode(body) for _, body in messages)


# -- replies ----------------------------------------------------------------------------------------------------------


def replies(posts: Iterable[Post], got: Iterable[Reply]) -> Iterator[Anomaly]:
    """Every ask has one reply; a record of it may be stored again, but it says the same."""
    asked = {post.name for post in posts if post.asks}
    answers: defaultdict[str, set[tuple[str, bytes]]] = defaultdict(set)
    for reply in got:
        answers[reply.correlation].add((reply.id, reply.payload))
    for name in sorted(asked - answers.keys()):
        yield Anomaly("reply-lost", f"{name} was asked and never answered")
    for name, different in sorted(answers.items()):
        if name not in asked or len(different) > 1:
            yield Anomaly("reply-doubled", f"{name}: {sorted(different)}")


# -- writers ----------------------------------------------------------------------------------------------------------


def accepted_batches(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Those that count: no record before them has a higher lease number."""
    highest = -1
    for batch in batches:
        if batch.lease >= highest:
            highest = batch.lease
            yield batch


def writers(batches: Sequence[Sequence[Batch]], accepted: Iterable[tuple[str, int, int, int]]) -> Iterator[Anomaly]:
    """What a worker took for committed was written in one unbroken chain from its claim on, by nobody else."""
    for (process, partition, lease), last in {chain[:3]: chain[3] for chain in accepted}.items():
        for batch in batches[partition]:
            if lease < batch.base <= last and batch.lease != lease:
                name = "stale-accepted" if batch.lease > lease else "split-writer"
                yield Anomaly(name, f"{process} went on in journal {partition} with lease {lease} after {batch.lease}")
                break


# -- states -----------------------------------------------------------------------------------------------------------


def fold(batches: Iterable[Batch]) -> dict[bytes, bytes]:
    """What a journal says, told without the code under test."""
    values: dict[bytes, bytes] = {}
    for batch in accepted_batches(batches):
        for key, value in batch.records:
            if value is None:
                values.pop(key, None)
            else:
                values[key] = value
    return values


def states_of(values: Mapping[bytes, bytes]) -> dict[str, dict[str, Any]]:
    """The states of all agents in a folded journal, by address."""
    kind = Interpreter.__rookery_type__
    keys: list[tuple[Key, bytes]] = [(split_key(key), value) for key, value in values.items()]
    return {
        key.address: msgspec.to_builtins(kind.decode_state(decode_agent(value).state))
        for key, value in keys
        if key.kind is KeyKind.AGENT
    }


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


def conservation(states: Mapping[str, Mapping[str, Any]]) -> Iterator[Anomaly]:
    """What one gives another takes."""
    total = sum(state["balance"] - BALANCE for state in states.values())
    if total:
        yield Anomaly("conservation", f"{total} too much")


# -- collecting -------------------------------------------------------------------------------------------------------


def gather(world: World, client: str) -> Evidence:
    """The evidence of a run that has come to rest; `client` has asked all agents."""
    broker, topics = world.broker, world.broker.topics
    partitions = range(world.settings.partitions)
    compacted: dict[str, dict[str, Any]] = {}
    for number in partitions:
        left = [
            Batch(r.offset, r.offset if r.lease is None else r.lease, [(r.key, r.value)])
            for r in broker.journals[number]
        ]
        compacted |= states_of(fold(left))
    live: dict[str, dict[str, Any]] = {}
    for address in {*compacted, *(post.target for post in world.posts)}:
        kind, state = world.owner_of(address).committed_state(address)
        if state is not None:
            live[address] = msgspec.to_builtins(kind.decode_state(state))
    got = [decode(record.value) for name in world.clients() for record in broker.records(topics.replies(name), 0)]
    answers = {
        reply.sender: msgspec.json.decode(reply.payload)
        for reply in got
        if reply.correlation_id.startswith(f"{client}-")
    }
    return Evidence(
        posts=list(world.posts),
        batches=[list(batches) for batches in broker.batches],
        compacted=compacted,
        live=live,
        answers=answers,
        inboxes={
            (number, lane): [decode(record.value) for record in broker.records(topic, number)]
            for number in partitions
            for lane, topic in enumerate(topics.inboxes)
        },
        letters=[decode_dead_letter(r.value or b"") for n in partitions for r in broker.records(topics.deadletter, n)],
        replies=[Reply(reply.correlation_id, reply.id, reply.payload) for reply in got],
        accepted=list(world.accepted),
    )


def _do(envelope: Envelope) -> Do | None:
    return msgspec.json.decode(envelope.payload, type=Do) if envelope.type == "Do" else None


def _messages(evidence: Evidence) -> Iterator[Do]:
    for log in evidence.inboxes.values():
        for envelope in log:
            if (do := _do(envelope)) is not None:
                yield do


def _tokens(evidence: Evidence) -> Iterator[Token]:
    return ((do.name, do.nonce) for do in _messages(evidence))
