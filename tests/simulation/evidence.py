"""What a run leaves behind: everything that the checks look at, collected once it has come to rest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from rookery.schemas.deadletter import DeadLetter, decode_dead_letter
from rookery.schemas.envelope import Envelope, decode
from rookery.schemas.journal import SLOT_PREFIX, Key, KeyKind, decode_agent, decode_slot, split_key
from tests.simulation.broker import Batch
from tests.simulation.fleet import Do, Interpreter

if TYPE_CHECKING:
    from tests.simulation.world import World

Token = tuple[str, str]  # name of a message; nonce of the attempt that sent it


@dataclass(frozen=True)
class Post:
    """A message of a client, in the order in which it was stored first."""

    client: str
    target: str
    priority: int
    name: str
    asks: bool
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


# -- journals, told without the code under test -----------------------------------------------------------------------


def accepted_batches(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Those that count: no record before them has a higher lease number."""
    highest = -1
    for batch in batches:
        if batch.lease >= highest:
            highest = batch.lease
            yield batch


def outbox(batches: Iterable[Batch]) -> Iterator[Envelope]:
    """All messages to agents in the accepted slots of a journal."""
    for batch in accepted_batches(batches):
        for key, value in batch.records:
            if key.startswith(SLOT_PREFIX) and value is not None:
                for (topic, _), messages in decode_slot(value).messages.items():
                    if ".inbox." in topic:
                        yield from (decode(body) for _, body in messages)


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


def do_of(envelope: Envelope) -> Do | None:
    return msgspec.json.decode(envelope.payload, type=Do) if envelope.type == "Do" else None


def messages(evidence: Evidence) -> Iterator[Do]:
    for log in evidence.inboxes.values():
        for envelope in log:
            if (do := do_of(envelope)) is not None:
                yield do


def tokens(evidence: Evidence) -> Iterator[Token]:
    for log in evidence.inboxes.values():
        for envelope in log:
            if (do := do_of(envelope)) is not None:
                yield do.name, do.nonce or envelope.id
