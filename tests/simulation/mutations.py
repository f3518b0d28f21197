"""Mechanisms of the protocol that can be switched off, each in the real core, to see that a seed goes red without it.

Some cover one another, and show only in pairs; such a pair is one entry here. The broker's fence is never seen missing
alone: contiguity finds the stale writer, and the numbers of leases take its records out. Those two show alone, since
some seeds have brokers that forget their fences. The look at the journal's end after a rebalance is covered by both,
and by the fence: it only finds sooner what the next append would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest import mock

from rookery.schemas.cells import Place, parked_key
from rookery.streams.core import loops
from rookery.streams.core import partition as core_partition
from rookery.streams.core.batch import CommitBatch
from rookery.streams.core.fold import JournalFold, Recovered
from rookery.streams.core.ledger import Ledgers
from rookery.streams.core.mailbox import Mailbox
from rookery.streams.core.outbox import DestinationQueue, Message, Outbox
from rookery.streams.core.partition import Partition
from rookery.streams.core.progress import LaneProgress
from rookery.streams.engine.ownership import Ownership
from rookery.streams.log import JournalRecord
from tests.simulation.broker import Broker


@dataclass(frozen=True)
class Mutation:
    """What is off, the anomaly that must be found then, where to look first, and (owner, attribute, replacement).

    Any change of the engine shifts what seeds do, so `seed` is a hint only.
    """

    without: str
    gives: str
    seed: int
    patches: Sequence[tuple[Any, str, Any]]


@contextmanager
def switched_off(names: Sequence[str]) -> Iterator[None]:
    """Run without these mechanisms."""
    with ExitStack() as stack:
        for name in names:
            for owner, attribute, replacement in MUTATIONS[name].patches:
                stack.enter_context(mock.patch.object(owner, attribute, replacement))
        yield


def _wrap(owner: Any, attribute: str, replacement: Callable[..., Any]) -> tuple[Any, str, Any]:
    """Call `replacement(original, *args)` instead."""
    original = getattr(owner, attribute)
    return owner, attribute, lambda *args, **kwargs: replacement(original, *args, **kwargs)


# -- repeats ----------------------------------------------------------------------------------------------------------


def _handle_every_id(original: Any, progress: LaneProgress, offset: int, message_id: str) -> bool:
    original(progress, offset, message_id)
    return False


def _take_every_sequence(original: Any, progress: LaneProgress, source: int, sequence: int) -> bool:
    highest, progress._seen[source] = progress._seen[source], 0
    admitted: bool = original(progress, source, sequence)
    progress._seen[source] = max(highest, sequence)
    return admitted


def _forget_done(original: Any, progress: LaneProgress, position: Any, window: int) -> None:
    original(progress, position, window)
    progress._flags.clear()


def _store_seen_of_fetch(original: Any, progress: LaneProgress) -> Any:
    position = original(progress)
    position.seen = progress._seen[:]
    return position


def _believe_the_start(original: Any, progress: LaneProgress, start: int) -> None:
    """What the log deleted is taken for done."""
    progress.skip_to(start)


# -- writers ----------------------------------------------------------------------------------------------------------


def _accept_any_base(original: Any, partition: Partition, base: int) -> Any:
    partition.last = base - 1
    return original(partition, base)


def _fold_everything(
    original: Any, fold: JournalFold, records: Sequence[JournalRecord], position: int | None = None
) -> None:
    """Whatever lease wrote a record, it counts."""
    original(fold, [JournalRecord(offset, key, value, offset) for offset, key, value, _ in records], position)


def _repair_nothing(original: Any, fold: JournalFold, claim: int) -> Recovered:
    recovered: Recovered = original(fold, claim)
    recovered.repair.clear()
    return recovered


# -- what goes out ----------------------------------------------------------------------------------------------------


def _release_when_built(original: Any, ownership: Ownership, progress_due: bool = False) -> None:
    partition = ownership.partition
    before = None if partition is None else partition.flight
    original(ownership, progress_due)
    batch: CommitBatch | None = None if partition is None else partition.flight
    if partition is not None and batch is not None and batch is not before and batch.number:
        ownership._engine.shipper.put(partition.release(batch.number, batch.released))
        batch.number = 0


def _skip_what_failed(original: Any, queue: DestinationQueue, bytes_max: int, overhead: int) -> list[Message]:
    failed = queue._taken
    if failed and len(queue._groups) > len(failed):
        queue._groups.rotate(-len(failed))
    messages: list[Message] = original(queue, bytes_max, overhead)
    return messages


def _send_nothing_again(original: Any, fold: JournalFold, claim: int) -> Recovered:
    recovered: Recovered = original(fold, claim)
    recovered.unsent.clear()
    if recovered.position is not None:
        recovered.position.sent_through = recovered.position.next_slot - 1
    return recovered


def _number_per_batch(original: Any, turns: Any, source: int, sequence: int, released: Any) -> int:
    """All messages of a batch get one sequence."""
    with mock.patch.object(loops, "seal", lambda body, source, number: _seal(body, source, sequence)):
        original(turns, source, sequence, released)
    return sequence + 1


def _seal(body: bytes, source: int, sequence: int) -> bytes:
    from rookery.schemas.envelope import seal

    return seal(body, source, sequence)


# -- adoption and steps -----------------------------------------------------------------------------------------------


def _adopt_at_once(original: Any, ledgers: Ledgers, records: Any, entries: Sequence[Any], *more: Any) -> None:
    unsettled = [SimpleNamespace(mailbox=m) for m in ledgers._requests for _ in range(m.unsettled)]
    original(ledgers, records, [*entries, *unsettled], *more)


def _adopt_all_but_the_message_in_hand(
    original: Any, ledgers: Ledgers, mailbox: Mailbox, ledger: Any, lane: int, records: Any, *more: Any
) -> int:
    size: int = original(ledgers, mailbox, ledger, lane, records, *more)
    if mailbox.current is not None and mailbox.current_lane == lane:
        records.pop(parked_key(mailbox.address, Place(lane, mailbox.current.offset)), None)
    return size


def _adopt_only_some(
    original: Any, ledgers: Ledgers, mailbox: Mailbox, ledger: Any, lane: int, records: Any, *more: Any
) -> int:
    before = set(records)
    size: int = original(ledgers, mailbox, ledger, lane, records, *more)
    parked = [key for key in records if key not in before]
    if len(parked) > 1:
        del records[parked[-1]]
    return size


def _keep_the_cell(original: Any, ledgers: Ledgers, entry: Any, ledger: Any, records: Any) -> bool:
    done: bool = original(ledgers, entry, ledger, records)
    if entry.ends and not done:
        del records[parked_key(entry.mailbox.address, Place(entry.lane, entry.offset))]
    return done


def _forget_steps(original: Any, *args: Any) -> Any:
    found = original(*args)
    for mailbox, _ in found:
        mailbox.ledger.steps.clear()
        mailbox.ledger.asks.clear()
    return found


_FENCE = (Broker, "fencing", False)
_CONTIGUITY = _wrap(Partition, "acked", _accept_any_base)
_NUMBERS = _wrap(JournalFold, "apply", _fold_everything)

MUTATIONS = {
    "ids": Mutation("the window of clients' ids", "doubled", 0, [_wrap(LaneProgress, "remember", _handle_every_id)]),
    "sequence": Mutation(
        "the sequence check of repeats", "doubled", 0, [_wrap(LaneProgress, "admit", _take_every_sequence)]
    ),
    "done": Mutation(
        "what ~pos says is done above the prefix", "doubled", 2, [_wrap(LaneProgress, "__init__", _forget_done)]
    ),
    "deleted": Mutation(
        "counting what retention deleted unhandled", "lost", 6, [_wrap(LaneProgress, "truncate", _believe_the_start)]
    ),
    "seen": Mutation(
        "storing sequences as of the prefix, not of the fetch",
        "lost",
        0,
        [_wrap(LaneProgress, "position", _store_seen_of_fetch)],
    ),
    "release": Mutation("commit before release", "ghost-send", 2, [_wrap(Ownership, "commit", _release_when_built)]),
    "ring": Mutation(
        "the ring rule: a slot is used again only once it is sent", "stuck", 25, [(Outbox, "has_room", True)]
    ),
    "ordered": Mutation(
        "the ordered outbox: what failed is sent again before what follows",
        "lost",
        11,
        [_wrap(DestinationQueue, "take", _skip_what_failed)],
    ),
    "resend": Mutation(
        "sending what a recovered ring still holds",
        "lost-send",
        2,
        [_wrap(JournalFold, "recovered", _send_nothing_again)],
    ),
    "numbering": Mutation(
        "a sequence of its own for each message", "lost", 0, [_wrap(loops, "number", _number_per_batch)]
    ),
    "adoption order": Mutation(
        "parking an agent's messages only with or after all its finished turns",
        "order-inversion",
        569,
        [_wrap(Ledgers, "adopt", _adopt_at_once)],
    ),
    "adopted in hand": Mutation(
        "parking the message in hand, too",
        "lost",
        0,
        [_wrap(Ledgers, "_adopt_lane", _adopt_all_but_the_message_in_hand)],
    ),
    "adopted run": Mutation(
        "parking a run without a gap", "lost", 0, [_wrap(Ledgers, "_adopt_lane", _adopt_only_some)]
    ),
    "adopted end": Mutation(
        "ending an adopted turn by deleting its cell", "doubled", 0, [_wrap(Ledgers, "settle", _keep_the_cell)]
    ),
    "steps": Mutation(
        "giving a turn that runs again its recorded steps",
        "step-repeated",
        2,
        [_wrap(core_partition, "recover_ledgers", _forget_steps)],
    ),
    "contiguity": Mutation("the check that an ack follows our last record", "split-writer", 4, [_CONTIGUITY]),
    "numbers": Mutation("the lease numbers that a fold compares", "ghost-send", 4, [_NUMBERS]),
    "fence+contiguity": Mutation(
        "the broker's fence of old leases, and the check that an ack follows our last record",
        "split-writer",
        4,
        [_FENCE, _CONTIGUITY],
    ),
    "fence+numbers": Mutation(
        "the broker's fence, and the lease numbers that a fold compares", "doubled", 11, [_FENCE, _NUMBERS]
    ),
    "fence+repair": Mutation(
        "the broker's fence, and writing again what a stale lease touched",
        "state-divergence",
        2,
        [_FENCE, _wrap(JournalFold, "recovered", _repair_nothing)],
    ),
    "fence+lag": Mutation(
        "the broker's fence, and the compaction lag that protects what a stale lease touched until it is repaired",
        "lost",
        610,
        [_FENCE, (Broker, "_unrepaired", lambda broker, partition: [])],
    ),
}
