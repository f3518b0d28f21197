"""The checker's own proof: each entry switches one mechanism off, and a run with it must go red with a fitting name.

The patches reach into the product; the product knows nothing of them. `killtable` runs the list.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.evidence import (
    DEAD_LETTER_MISMATCH,
    DOUBLED,
    GHOST_SEND,
    LOST,
    LOST_SEND,
    ORDER_INVERSION,
    SPLIT_WRITER,
    STALE_ACCEPTED,
    STATE_DIVERGENCE,
)


@dataclass(frozen=True)
class Mutation:
    """A mechanism, what makes its absence show, and how that is called; any of `names` will do."""

    name: str
    off: str  # in words
    patch: Callable[[], None]
    names: tuple[str, ...]
    kinds: Sequence[str] = ()
    emphasis: dict[str, float] = field(default_factory=dict)  # see workload.commands
    seed: int = 1


def switch_off(name: str) -> None:
    """Patch the product in this process; an empty name patches nothing."""
    if name:
        {mutation.name: mutation for mutation in MUTATIONS}[name].patch()


# --- what is a repeat ------------------------------------------------------------------------------------------------


def _prefix() -> None:
    """Recovery begins before the prefix, as if offsets were committed only now and then."""
    from rookery.schemas.journal import LanePosition
    from rookery.streams.core.progress import LaneProgress

    init = LaneProgress.__init__

    def rewound(self: LaneProgress, position: LanePosition, window: int) -> None:
        start = max(0, position.prefix - 200)
        init(self, LanePosition(start, b"", position.seen, position.incarnation), window)

    LaneProgress.__init__ = rewound  # type: ignore[method-assign]


def _ranges() -> None:
    """Recovery forgets what is done above the prefix."""
    from rookery.schemas.journal import LanePosition
    from rookery.streams.core.progress import LaneProgress

    init = LaneProgress.__init__

    def forgetful(self: LaneProgress, position: LanePosition, window: int) -> None:
        init(self, LanePosition(position.prefix, b"", position.seen, position.incarnation), window)

    LaneProgress.__init__ = forgetful  # type: ignore[method-assign]


def _sequence() -> None:
    """A message that a source sends again is a new one."""
    from rookery.streams.core.progress import LaneProgress

    def anything(self: LaneProgress, source: int, sequence: int) -> bool:
        return self.admit_outside("")

    LaneProgress.admit = anything  # type: ignore[method-assign]


def _ids() -> None:
    """A message that a client sends again is a new one."""
    from rookery.streams.core.progress import LaneProgress

    LaneProgress.remember = lambda self, offset, message_id: False  # type: ignore[method-assign]


# --- who may write ---------------------------------------------------------------------------------------------------


def _lease() -> None:
    """Every worker writes the journal under a producer id of its own: the broker refuses nobody."""
    from rookery.streams.kafka import lease
    from rookery.streams.kafka.batches import fetch_identity

    lease.fetch_identity = lambda producer, _, timeout: fetch_identity(producer, None, timeout)  # type: ignore[assignment,attr-defined]


def _lease_and_contiguity() -> None:
    """The same, and acks are taken as they come, also when a rebalance is over."""
    from rookery.streams.core.partition import Partition
    from rookery.streams.engine.ownership import Ownership

    _lease()
    acked = Partition.acked

    def trusting(self: Partition, base: int) -> Any:
        self.last = base - 1
        return acked(self, base)

    async def kept(self: Ownership, generation: int) -> None:
        if self.partition is not None:
            self._engine.inbound.kept(self.partition)

    Partition.acked = trusting  # type: ignore[method-assign]
    Ownership.verify = kept  # type: ignore[method-assign]


# --- what leaves -----------------------------------------------------------------------------------------------------


def _release() -> None:
    """Messages leave before their turn is committed."""
    from rookery.streams.engine.ownership import Ownership

    commit = Ownership._commit

    async def early(self: Ownership, partition: Any, lease: Any, batch: Any) -> None:
        for (topic, number), messages in batch.released.items():
            await self._engine.port.ship(topic, number, messages)
        await commit(self, partition, lease, batch)

    Ownership._commit = early  # type: ignore[method-assign]


def _resend() -> None:
    """Recovery takes what was committed for sent."""
    from rookery.streams.core.fold import JournalFold, Recovered

    recovered = JournalFold.recovered

    def optimistic(self: JournalFold, claim: int) -> Recovered:
        found = recovered(self, claim)
        found.unsent = []
        if found.position is not None:
            found.position.sent_through = found.position.next_slot - 1
        return found

    JournalFold.recovered = optimistic  # type: ignore[method-assign]


def _order() -> None:
    """The messages of a batch leave in any order."""
    from rookery.streams.core.outbox import DestinationQueue

    take = DestinationQueue.take

    def shuffled(self: DestinationQueue, *args: Any) -> Any:
        messages = list(take(self, *args))
        random.shuffle(messages)
        return messages

    DestinationQueue.take = shuffled  # type: ignore[assignment,method-assign]


# --- long turns ------------------------------------------------------------------------------------------------------


def _adoption() -> None:
    """Recovery serves parked messages in any order."""
    from rookery.streams.core import ledger, partition

    recover = ledger.recover_ledgers

    def backwards(*args: Any) -> Any:
        found = recover(*args)
        for one in found:
            for lane in one.mailbox.lanes:
                lane.reverse()
        return found

    partition.recover_ledgers = backwards  # type: ignore[assignment,attr-defined]


def _steps() -> None:
    """A turn that runs again does its steps again."""
    from rookery.streams.engine.steps import TurnSteps

    begin = TurnSteps.begin

    def oblivious(self: TurnSteps) -> Any:
        return begin(self)[0], None

    TurnSteps.begin = oblivious  # type: ignore[method-assign]


def _digest() -> None:
    """A step that differs from the recorded one gets its result all the same."""
    from rookery.agents import steps

    steps._begin = lambda log, context, fresh: log.begin()


# --- locks -----------------------------------------------------------------------------------------------------------


def _guard() -> None:
    """Agents take any token."""
    from rookery.agents import guard

    guard.check_fence = lambda seen, name, token: seen.__setitem__(name, token)  # type: ignore[attr-defined]


# --- what can't be handled -------------------------------------------------------------------------------------------


def _crc() -> None:
    """Envelopes are parsed as they come."""
    from google.protobuf.message import DecodeError

    from rookery.schemas.envelope_pb2 import Envelope
    from rookery.schemas.errors import Undecodable
    from rookery.streams.core import loops
    from rookery.streams.engine import inbound, turns

    def trusting(data: bytes | None) -> Envelope:
        try:
            return Envelope.FromString(data or b"")
        except DecodeError as error:
            raise Undecodable(str(error)) from None

    for module in (loops, inbound, turns):
        module.decode = trusting  # type: ignore[attr-defined]


def _letters() -> None:
    """What can't be handled is dropped."""
    from rookery.streams.core.batch import Finished
    from rookery.streams.engine.deadletters import DeadLetters

    def dropped(self: Any, partition: Any, lane: int, item: Any, error: Any, mailbox: Any = None, *_: Any) -> Finished:
        return Finished(mailbox, lane, item.offset, None, ())

    DeadLetters.finished = dropped  # type: ignore[assignment]
    DeadLetters.unreadable = dropped  # type: ignore[assignment,method-assign]


MUTATIONS: tuple[Mutation, ...] = (
    Mutation("prefix", "redelivery answered by ~pos", _prefix, (DOUBLED,), ["kill"]),
    Mutation("ranges", "what is done above the prefix", _ranges, (DOUBLED,), ["kill"], {"long": 0.02}),
    Mutation("sequence", "sequence of each source", _sequence, (DOUBLED,), ["failpoint:shipped"]),
    Mutation("ids", "window of clients' ids", _ids, (DOUBLED,)),
    Mutation("lease", "lease: the broker's fence", _lease, (SPLIT_WRITER,), ["freeze"]),
    Mutation(
        "lease+contiguity", "lease, contiguity of acks and the look after a rebalance", _lease_and_contiguity,
        (STALE_ACCEPTED, DOUBLED, LOST, GHOST_SEND), ["freeze"],
    ),
    Mutation("release", "commit before release", _release, (GHOST_SEND,), ["failpoint:appending"]),
    Mutation("resend", "outbox: sent again after recovery", _resend, (LOST_SEND,), ["failpoint:acked"]),
    Mutation("order", "outbox: order", _order, (ORDER_INVERSION, LOST)),
    Mutation("adoption", "adoption: parked messages in order", _adoption, (ORDER_INVERSION,), ["kill"], {"long": 0.03}),
    Mutation("steps", "durable steps: done once", _steps, (DOUBLED,), ["kill"], {"fickle": 0.2}),
    Mutation("digest", "digest of steps", _digest, (STATE_DIVERGENCE,), ["kill"], {"fickle": 0.2}),
    Mutation("crc", "CRC", _crc, (DEAD_LETTER_MISMATCH,), (), {"poison": 0.2}),
    Mutation("letters", "dead letters", _letters, (DEAD_LETTER_MISMATCH,)),
    Mutation("guard", "fencing tokens of locks", _guard, (STALE_ACCEPTED,), ["redis-flush"], {"lock": 0.2}),
)  # fmt: skip
# What needs no worker to die is seen within seconds.
QUICK = tuple(mutation.name for mutation in MUTATIONS if not mutation.kinds)
