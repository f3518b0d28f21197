"""What a run leaves behind: everything that the checks look at, collected once it has come to rest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from rookery.schemas.deadletter import DeadLetter
from rookery.schemas.envelope import Envelope, decode, envelope_of
from rookery.schemas.journal import RETIRED, SLOT_PREFIX, KeyKind, decode_agent, decode_slot, split_key
from tests.simulation.broker import Batch
from tests.simulation.fleet import Do, Heard, Interpreter, Mortal, Witness

if TYPE_CHECKING:
    from tests.simulation.world import World

KINDS = {cls.__name__: cls.__rookery_type__ for cls in (Interpreter, Mortal, Witness)}

Token = tuple[str, str]  # name of a message; nonce of the attempt that sent it


@dataclass(frozen=True)
class Post:
    """A message of a client, in the order in which it was stored first."""

    client: str
    target: str
    priority: int
    name: str
    asks: bool
    system: str = ""  # the kind of a message of Rookery's own


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
    starts: Mapping[tuple[int, int], int] = field(default_factory=dict)  # of the inboxes, by partition and lane
    states: dict[str, dict[str, Any]] = field(init=False)  # by address, folded from all that was ever stored

    def __post_init__(self) -> None:
        self.states = {}
        for batches in self.batches:
            self.states |= states_of(fold(batches))

    @property
    def books(self) -> dict[str, dict[str, Any]]:
        """The states of those agents that keep books for ever."""
        return {address: state for address, state in self.states.items() if "handled" in state}


# -- journals, told without the code under test -----------------------------------------------------------------------


def accepted_batches(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Those that count: no record before them has a higher lease number."""
    highest = -1
    for batch in batches:
        if batch.lease >= highest:
            highest = batch.lease
            yield batch


def read(value: bytes | None) -> Envelope:
    """An envelope as Protobuf's class, which can be compared and serialized."""
    return envelope_of(decode(value))


def outbox(batches: Iterable[Batch]) -> Iterator[Envelope]:
    """All messages to agents in the accepted slots of a journal."""
    for batch in accepted_batches(batches):
        for key, value in batch.records:
            if key.startswith(SLOT_PREFIX) and value is not None:
                for (topic, _), messages in decode_slot(value).messages.items():
                    if ".inbox." in topic:
                        yield from (read(body) for _, body in messages)


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
    """The states of all agents in a folded journal that were not stopped, by address."""
    agents = [(split_key(key), decode_agent(value)) for key, value in values.items() if is_agent(key)]
    return {
        key.address: msgspec.to_builtins(KINDS[record.type].decode_state(record.state))
        for key, record in agents
        if not record.flags & RETIRED
    }


def is_agent(key: bytes) -> bool:
    return split_key(key).kind is KeyKind.AGENT


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
    for address in {*compacted, *(post.target for post in world.posts if "/" in post.target)}:
        kind, state = world.owner_of(address).committed_state(address)
        if state:  # else it was stopped, or never was
            live[address] = msgspec.to_builtins(kind.decode_state(state))
    clients = dict.fromkeys(post.client for post in world.posts)
    got = [decode(record.value) for name in clients for record in broker.records(topics.replies(name), 0)]
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
            (number, lane): [read(record.value) for record in broker.records(topic, number)]
            for number in partitions
            for lane, topic in enumerate(topics.inboxes)
        },
        letters=world.letters(),
        replies=[Reply(reply.correlation_id, reply.id, reply.payload) for reply in got],
        accepted=list(world.accepted),
        starts={
            (number, lane): broker.start(topic, number)
            for number in partitions
            for lane, topic in enumerate(topics.inboxes)
        },
    )


def do_of(envelope: Envelope) -> Do | None:
    return msgspec.json.decode(envelope.payload, type=Do) if envelope.type == "Do" else None


def heard_of(batches: Iterable[Iterable[Batch]]) -> list[tuple[str, Heard]]:
    """What mortal agents said of what they handled, in the order of their commits, with their addresses."""
    heard: dict[str, tuple[str, Heard]] = {}
    for stored in batches:
        for envelope in outbox(stored):  # a slot that was repaired is there twice
            if envelope.type == "Heard":
                heard.setdefault(envelope.id, (envelope.sender, msgspec.json.decode(envelope.payload, type=Heard)))
    return list(heard.values())


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
