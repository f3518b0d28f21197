"""What is compiled of the core against its Python twins, in two processes: one has only one of them."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from array import array
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rookery.ops.metrics import TURN_BOUNDS, Metrics
from rookery.schemas import native
from rookery.schemas.address import parse, partition_of
from rookery.schemas.envelope import Priority, Received, decode, encode_body, seal
from rookery.schemas.errors import InvalidAddress
from rookery.schemas.ids import id_source
from rookery.schemas.journal import LanePosition
from rookery.streams.core import loops
from rookery.streams.core.batch import Finished, Sent
from rookery.streams.core.finishing import Finishing
from rookery.streams.core.ledger import Ledger
from rookery.streams.core.mailbox import Directory, Item, Mailbox
from rookery.streams.core.progress import LaneProgress
from rookery.streams.core.runqueue import RunQueue
from rookery.streams.core.store import Mark, MemoryStore
from rookery.streams.engine.turns import ParkedRecord

_records: Any = native.load("rookery.streams.kafka._records")
ROOT = Path(__file__).resolve().parents[2]
SEEDS = 60
# Every so many seeds are long enough for what is trimmed now and then.
LONG = 20
NOTHING: Any = None


def told(progress: LaneProgress) -> tuple[Any, ...]:
    position = progress.position()
    return (
        *(progress.prefix, progress.next, progress.fetched_count, progress.flag_count),
        *(position.prefix, hashlib.sha256(position.done).hexdigest(), list(position.seen)),
    )


def lane(seed: int) -> list[Any]:
    """Records come, are done in any order, and are missing."""
    rng, long = random.Random(seed), seed % LONG == 0
    sources = rng.randint(1, 5)
    done, seen = bytes(rng.choices((0, 1), k=rng.randint(0, 30))), array("Q", rng.choices(range(5), k=sources))
    progress = LaneProgress(LanePosition(rng.choice([0, 5, 2**40]), done, seen), rng.choice([0, 1, 5, 50, 6_000]))
    unfinished: list[int] = []
    found: list[Any] = []
    last = [0] * sources
    for _ in range(20_000 if long else 300):
        chance, offset = rng.random(), progress.next
        if chance < 0.2:
            source = rng.randrange(sources)
            last[source] += rng.choice([0, 1, 1, 2])
            found.append(progress.admit(source, last[source]))
        elif chance < 0.47:
            known = rng.choice(("", "é", "\u20ac", "\U0001f600", "\ud800", "x" * 60, "\u20ac" * 40)) + str(
                rng.randint(0, 40)
            )
            found.append(progress.admit_outside(rng.choice(["", known, str(rng.random())])))
        elif chance < 0.5:
            found.append(progress.skip_to(offset + rng.randint(1, 4)))  # type: ignore[func-returns-value]
        elif chance < 0.93 and unfinished:
            some = unfinished.pop(rng.randrange(min(len(unfinished), 8 if rng.random() < 0.9 else len(unfinished))))
            (progress.done if rng.random() < 0.8 else progress.give_up)(some)
        elif chance < 0.94:
            lost = progress.truncate(offset + rng.randint(1, 6))
            found.append(lost)
            unfinished += [lost[1]] if lost else []
        else:
            progress.advance()
            found += [told(progress)] if not long or rng.random() < 0.02 else []
        unfinished += [offset] if found and found[-1] is True and progress.next == offset + 1 else []
    progress.advance()
    return [*found, told(progress)]


def queue(seed: int) -> list[Any]:
    """Agents get work, run, are held and closed."""
    rng, run_queue, agents = random.Random(seed), RunQueue(), [Mailbox(f"A/{i}", i) for i in range(6)]
    found: list[Any] = []
    for number in range(600):
        agent, at, chance = rng.choice(agents), rng.randrange(3), rng.random()
        if chance < 0.3:
            agent.lanes[at].append(Item(number, NOTHING, NOTHING))
            run_queue.push(agent, at)
        elif chance < 0.4:
            run_queue.push_waiting(agent)
        elif chance < 0.51:
            name = rng.choice(["running", "held", "closed"])
            setattr(agent, name, not getattr(agent, name))
        elif chance < 0.55:
            found.append(run_queue.holds(at, rng.randint(-1, 70)))
        elif chance < 0.6:
            agent.lanes[at].extend([Item(number, NOTHING, NOTHING)] * rng.randint(0, 50))
        elif work := run_queue.pop():
            found.append((work[0].address, work[1], work[0].lanes[work[1]].popleft().offset))
            run_queue.push_waiting(work[0])
        found.append(
            (len(run_queue), len(agent), agent.idle, list(agent.queued), [item.offset for item in agent.lanes[at]])
        )
    return found


ADDRESSES = ["", "A/", "A/\x7f", "A/é", "4f2b8c1d9e3a4b7c8d1e2f3a4b5c6d7e", "A/" + "k" * 300, "nats/a"]
ADDRESSES += [f"A/{i}" for i in range(200)]
CHANGES: list[tuple[str, Any]] = [
    *[("running", True), ("held", True), ("unborn", True), ("unsettled", 1), ("ledger", Ledger()), ("agent", 1)],
    *[("running", False), ("held", False), ("unsettled", 0)],
]


def arrive(rng: random.Random, partition: Any, lane: int, progress: LaneProgress, run_queue: RunQueue, now: int) -> Any:
    """Messages come to agents."""
    to = rng.choices(ADDRESSES, k=20)
    bodies = [encode_body("c", to[i], b"x", 1, Priority.LOW, f"{now}", "M", "x") for i in range(20)]
    values = [b"nothing" if rng.random() < 0.1 else seal(body, 1, now * 20 + i) for i, body in enumerate(bodies)]
    records = [ParkedRecord(progress.next + i, b"", value, (), 0) for i, value in enumerate(values)]
    items, refused, special = list[Item](), list[Any](), list[Any]()

    def look_at(item: Item, mailbox: Mailbox | None) -> None:
        """What Inbound does with the usual agent; what else it would look at is found here."""
        target = item.envelope.target
        try:
            usual = parse(target)[0] is not None and partition_of(target, 3) == partition.number
        except InvalidAddress:
            usual = False
        if mailbox is not None or not usual:
            special.append((item.offset, target, None if mailbox is None else mailbox.address))
            return
        mailbox = partition.mailboxes[target] = Mailbox(target, partition.number)
        mailbox.passing = loops.is_passing(len(partition.mailboxes) > partition.room, item.offset)
        mailbox.used_at = float(now)
        mailbox.lanes[lane].append(item)
        run_queue.push(mailbox, lane)

    at = loops.admit(progress, records, 0, 3, NOTHING, items, refused)
    loops.deliver(items, lane, partition, run_queue, float(now), look_at)
    return at, [item.offset for item in items], [str(error) for _, error in refused], special


def memory(seed: int) -> list[Any]:
    """Messages bring agents to memory; those that idle leave it."""
    rng, found = random.Random(seed), list[Any]()
    partitions = [
        SimpleNamespace(number=number, partitions=3, mailboxes=Directory(), room=rng.randint(0, 60))
        for number in range(3)
    ]
    lanes = [[LaneProgress(LanePosition(0, b"", array("Q", [0] * 3)), 9) for _ in range(3)] for _ in partitions]
    queues = [RunQueue() for _ in partitions]
    stored = {address.encode() for address in ADDRESSES[::2]}
    quiet: Any = SimpleNamespace(settled=lambda mailbox: None)
    for now in range(60):
        number, lane = rng.randrange(3), rng.randrange(3)
        mailboxes, run_queue = partitions[number].mailboxes, queues[number]
        found.append(arrive(rng, partitions[number], lane, lanes[number][lane], run_queue, now))
        turns: list[Any] = []
        while rng.random() < 0.97 and (work := run_queue.pop()):
            work[0].lanes[work[1]].popleft()
            work[0].used_at += rng.choice([0, rng.random()])
            run_queue.push_waiting(work[0])
            turns.append(Finished(work[0], work[1], 0, None, ()))
            turns[-1].mailbox.unsettled += 1
        for mailbox in rng.choices(list(mailboxes.values()), k=5) if mailboxes else ():
            mailbox.kind = SimpleNamespace(has_passivate=rng.random() < 0.3, has_activate=rng.random() < 0.1)
            setattr(mailbox, *rng.choice(CHANGES))
        loops.acknowledge(turns, quiet, mailboxes, stored)
        found.append([mailbox.address for mailbox in loops.busy(mailboxes)])
        before, excess = now - rng.choice([0, 1, 2, 50]), rng.choice([-1, 0, 1, 3, 9, 50, 1_000])
        idle = loops.idle([partition.mailboxes for partition in partitions], before, excess)
        found.append([[mailbox.address for mailbox in some] for some in idle])
        for partition, some in zip(partitions, idle, strict=True):
            hooked = loops.forget(partition.mailboxes, some, rng.randint(0, 9), now - rng.choice([0, 0, 1]))
            found.append((None if hooked is None else hooked.address, len(some), list(partition.mailboxes)))
        found.append(
            [
                (m.address, m.key, m.used_at, len(m), m.closed, m.passing)
                for p in partitions
                for m in p.mailboxes.values()
            ]
        )
    return found


def store(seed: int) -> list[Any]:
    """Values of any size come, change and go."""
    rng, found, long = random.Random(seed), list[Any](), seed % LONG == 0
    keys = [b"~pos", b"A/\xff~", b"A", *(b"A/%d" % number for number in range(3_000 if long else 40))]
    kept = MemoryStore({keys[-1]: b"old"})
    expected = {keys[-1]: b"old"}
    for number in range(200):
        drawn = rng.choices(keys, k=rng.choice([0, 1, 5, 100, 900 if long else 9]))
        sizes = rng.choices([0, 1, 7, 8, 9, 100, 108, 511, 512, 513, 3_000], k=len(drawn))
        changes = {
            key: rng.choice([None, bytes([number]) * size, b"%d" % number])
            for key, size in zip(drawn, sizes, strict=True)
        }
        kept.apply(changes, Mark(number))
        expected |= {key: value for key, value in changes.items() if value is not None}
        expected = {key: value for key, value in expected.items() if changes.get(key, b"") is not None}
        agents = {key: value for key, value in expected.items() if key[:1] != b"~"}
        assert [kept.get(key) for key in keys] == [agents.get(key) for key in keys]
        assert (dict(kept.values.items()), len(kept)) == (agents, len(agents))
        assert [key in kept for key in [*keys, "A", None]] == [*(key in agents for key in keys), False, False]
        found += [sorted(agents.items()), sorted(kept.cells()), sorted(kept.retired())] if number % 20 == 0 else []
        if rng.random() < 0.01:
            kept.wipe()
            expected = {}
    return found


def directory(seed: int) -> list[Any]:
    """Mailboxes come, go, and take the place of others."""
    rng, long = random.Random(seed), seed % LONG == 0
    addresses = [f"A/{number}" for number in range(3_000 if long else 30)]
    kept, expected, found = Directory(), dict[str, Mailbox](), list[Any]()
    for _ in range(20_000 if long else 400):
        address, share = rng.choice(addresses), rng.choice([0.3, 0.5, 0.7])
        if rng.random() < share:
            kept[address] = expected[address] = Mailbox(address, 0)
        elif address in expected:
            del kept[address], expected[address]
        else:
            with pytest.raises(KeyError):
                del kept[address]
            with pytest.raises(KeyError):
                kept[address]
        assert (kept.get(address), address in kept, len(kept)) == (
            expected.get(address), address in expected, len(expected),
        )  # fmt: skip
        if rng.random() < (0.001 if long else 0.1):
            assert list(kept.values()) == list(expected.values())
            assert [kept.get(address) for address in addresses] == [expected.get(address) for address in addresses]
            found.append(list(kept))
    for address in list(kept):
        assert kept[address] is expected.pop(address)
        del kept[address]
    return [*found, list(expected), len(kept), list(kept)]


def finishing(seed: int) -> list[Any]:
    """Turns finish, and batches take them while there is room in the ring, and while there is none."""
    rng, waiting = random.Random(seed), Finishing()
    agents = [*(Mailbox(f"A/{i}", 0) for i in range(5)), None]
    put: dict[Any, list[int]] = {}
    got: dict[Any, list[int]] = {}
    found: list[Any] = []
    for number in range(300):
        if rng.random() < 0.6:
            agent, size = rng.choice(agents), rng.randint(0, 40)
            sent = [Sent(("t", rng.randint(0, 3)), b"k", b"x" * size, True)] * rng.choice([0, 0, 1, 2])
            waiting.fresh.append(Finished(agent, 1, number, None, sent))
            put.setdefault(agent, []).append(number)
            continue
        room, released = rng.random() < 0.5, dict[Any, Any]()
        turns = (waiting.take if room else waiting.take_silent)(rng.randint(1, 6), rng.randint(0, 50), 400)
        assert room or not any(turn.sent for turn in turns)
        for turn in turns:
            got.setdefault(turn.mailbox, []).append(turn.offset)
        found += [[(turn.offset, turn.size) for turn in turns], loops.number(turns, 3, number, released), released]
    while waiting:
        for turn in waiting.take(3, 0, 100):
            got.setdefault(turn.mailbox, []).append(turn.offset)
    assert put == got
    return [*found, len(waiting)]


def kinds(rng: random.Random) -> list[Any]:
    return [None, *(SimpleNamespace(name=f"T{i}") for i in range(rng.randint(0, 3)))]


def counting(seed: int) -> list[Any]:
    """Turns of agents with and without a type are counted, in runs and mixed."""
    rng, agents = random.Random(seed), [Mailbox(f"A/{i}", 0) for i in range(5)]
    types = kinds(rng)
    for agent in agents:
        agent.kind = rng.choice(types)
    found: list[Any] = []
    for _ in range(20):
        places = [(rng.choice([*agents, None]), rng.randrange(3)) for _ in range(rng.randint(0, 9))]
        turns = [Finished(*place, 0, None, []) for place in places for _ in range(rng.choice([1, 1, 5]))]
        found.append(loops.tally(turns, "unknown"))
    return [sorted(counts.items()) for counts in found]


def observing(seed: int) -> list[Any]:
    """Turns of any length, more agents than there are labels, and scrapes."""
    rng = random.Random(seed)
    metrics, types = Metrics(rng.choice([0, 1, 7, 100])), kinds(rng)
    agents: list[Any] = [SimpleNamespace(address=f"A/{i}", kind=rng.choice(types)) for i in range(rng.randint(1, 60))]
    found: list[Any] = []
    for _ in range(1_500):
        seconds = rng.choice([0.0, 1e-5, rng.random() / 1_000, rng.choice(TURN_BOUNDS), 10 ** rng.uniform(-5, 3)])
        agent = agents[int(len(agents) * rng.random() ** 3)]
        metrics.observer(agent, rng.randrange(3), seconds, rng.random() < 0.1)
        if rng.random() < 0.005:
            found += [metrics.exposition(), metrics.sampled()]
    return [*found, metrics.exposition(), metrics.sampled()]


def naming(seed: int) -> list[Any]:
    """Ids of one source after another."""
    new_id = id_source("x" * (seed % 30))
    return [new_id() for _ in range(120_000 if seed % LONG == 0 else 12)]


@pytest.mark.compiled
def test_fetched_records_are_admitted_as_others_are() -> None:
    bodies = [encode_body("c", "A/1", b"x", 1, Priority.LOW, f"{i % 7}", "M", "x") for i in range(9)]
    values: list[bytes | None] = [seal(body, 1, i) for i, body in enumerate(bodies)]
    values[4], values[6] = b"nothing", None
    found = []
    for headers in ((), (("a", b"b"),)):
        batch, _ = _records.encode_batch([(b"k", value) for value in values], headers, 1, 1, 1, 0)
        fetched = _records.decode_batch(bytes(batch), 0, 0, True)
        others = [ParkedRecord(record.offset, record.key, record.value, headers, 1) for record in fetched]
        for records in (fetched, others, [*others[:5], *fetched[5:]], fetched[2:]):
            read, items, refused = list[int](), list[Item](), list[Any]()
            progress = LaneProgress(LanePosition(0, b"", array("Q", [0, 0])), 9)

            def reader(record: Any, read: list[int] = read) -> Received:
                read.append(record.offset)
                return decode(record.value)

            end = loops.admit(progress, records, 0, 2, reader, items, refused)
            assert loops.size(records) == sum(len(record.value or b"") for record in records)
            assert all(item.record is records[item.offset] for item in items)
            met = [(item.offset, item.envelope.id) for item in items]
            found.append((end, read, met, [(record.offset, str(error)) for record, error in refused], told(progress)))
    assert found[0] == found[1] == found[2]
    assert found[4] == found[5] == found[6]
    assert (found[0][0], found[0][1], found[4][1]) == (9, [], list(range(9)))
    assert (found[3][0], found[3][2]) == (0, [])


WAYS: dict[str, Callable[[int], list[Any]]] = {
    way.__name__: way for way in (lane, queue, memory, store, directory, finishing, counting, observing, naming)
}


def outcomes(name: str) -> list[str]:
    """What becomes of each seed."""
    return [hashlib.sha256(repr(WAYS[name](seed)).encode()).hexdigest() for seed in range(SEEDS)]


@pytest.mark.compiled
@pytest.mark.parametrize("name", WAYS)
def test_compiled_and_python_come_to_the_same(name: str) -> None:
    program = "import sys; from tests.property.test_compiled_core import outcomes; print(*outcomes(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", program, name], cwd=ROOT, env={**os.environ, "ROOKERY_PURE": "1"}, check=True,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert outcomes(name) == done.stdout.split()
