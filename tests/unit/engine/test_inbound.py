"""What comes in: records of plain Kafka clients, garbage, repeats, holes, and more than fits."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import msgspec

from rookery.agents import Agent, handler
from rookery.schemas.address import partition_of
from rookery.schemas.envelope import decode
from rookery.streams.memory import MemoryRecord
from rookery.testing import Kit
from tests.unit.engine.harness import Cluster, addresses, post, virtual

JSON_HEADER = ("content-type", b"application/json")


@dataclass
class Add:
    n: int


class Sum(Agent):
    total: int = 0
    count: int = 0

    @handler
    async def add(self, msg: Add) -> int:
        self.total += msg.n
        self.count += 1
        return self.total


def put_json(kit: Kit, target: str, value: bytes, *headers: tuple[str, bytes]) -> None:
    """What kcat would do."""
    number = partition_of(target, kit.settings.partitions)
    kit.log.append("kit.inbox.normal", number, [(target.encode(), value)], (JSON_HEADER, *headers))


@virtual
async def test_json_of_a_plain_producer_is_handled_and_answered_in_json() -> None:
    async with Kit(Sum) as kit:
        put_json(kit, "Sum/a", b'{"type": "Add", "n": 2}', ("reply-to", b"shell"), ("correlation-id", b"c1"))
        put_json(kit, "Sum/a", b'{"n": 3}', ("type", b"Add"), ("reply-to", b"shell"), ("id", b"m2"))
        await kit.settle()
        replies = kit.log.records("kit.replies.shell", 0)
        assert [(reply.key, reply.value) for reply in replies] == [(b"c1", b"2"), (b"m2", b"5")]
        assert kit.manager.get_agent("Sum/a").total == 5


@virtual
async def test_json_that_cant_be_handled_is_answered_in_json_too() -> None:
    async with Kit(Sum) as kit:
        put_json(kit, "Sum/a", b'{"type": "Add", "n": "many"}', ("reply-to", b"shell"))
        await kit.settle()
        (reply,) = kit.log.records("kit.replies.shell", 0)
        assert msgspec.json.decode(reply.value or b"")["error"] == "bad-payload"
        (letter,) = kit.dead_letters()
        assert letter.value == b'{"type": "Add", "n": "many"}'
        assert ("content-type", b"application/json") in [(h.key, h.value) for h in letter.headers]


@virtual
async def test_an_ask_is_answered_with_a_sealed_envelope() -> None:
    async with Kit(Sum) as kit:
        post(kit.log, "Sum/a", Add(2), id="m1", reply_to="client:other")
        await kit.settle()
        (reply,) = kit.log.records("kit.replies.other", 0)
        envelope = decode(reply.value)
        assert (envelope.correlation_id, envelope.sender, envelope.payload) == ("m1", "Sum/a", b"2")


@virtual
async def test_garbage_becomes_dead_letters_and_the_partition_goes_on() -> None:
    async with Kit(Sum, partitions=1) as kit:
        good = post(kit.log, "Sum/a", Add(1))
        flipped = good[:-6] + bytes([good[-6] ^ 1]) + good[-5:]
        garbage = [b"", b"garbage", flipped, good[:-1], b"\x00" * 100]
        kit.log.append("kit.inbox.normal", 0, [(b"Sum/a", value) for value in garbage])
        kit.log.append("kit.inbox.normal", 0, [(None, b"{}"), (b"Sum/a", b"{"), (b"no address", b"{}")], (JSON_HEADER,))
        kit.log._records["kit.inbox.normal", 0].append(MemoryRecord(9, b"Sum/a", None, (), 0))
        post(kit.log, "Sum/a", Add(2))
        await kit.settle()
        letters = sorted(kit.dead_letters(), key=lambda letter: letter.offset)
        assert [letter.offset for letter in letters] == list(range(1, 10))
        assert [letter.value for letter in letters][:5] == garbage
        reasons = [letter.reason for letter in letters]
        assert reasons[:2] == ["missing-crc"] * 2
        assert reasons[2] == "crc-mismatch"
        assert reasons[5:] == ["undecodable", "undecodable", "invalid-address", "missing-crc"]
        assert kit.manager.get_agent("Sum/a").total == 3


@virtual
async def test_a_message_on_a_partition_that_is_not_its_agents_is_refused() -> None:
    """Handling it there would make a second agent of the same name."""
    async with Kit(Sum) as kit:
        value = post(kit.log, "Sum/a", Add(1))
        elsewhere = (partition_of("Sum/a", 4) + 1) % 4
        kit.log.append("kit.inbox.normal", elsewhere, [(b"Sum/a", value)])
        await kit.settle()
        (letter,) = kit.dead_letters()
        assert (letter.reason, letter.partition) == ("misrouted", elsewhere)
        assert kit.manager.get_agent("Sum/a").total == 1


@virtual
async def test_a_clients_id_counts_once_within_the_window() -> None:
    async with Kit(Sum, dedup_window=5) as kit:
        for message_id in ("a", "b", "a", "", "", "b"):
            post(kit.log, "Sum/a", Add(1), id=message_id)
        await kit.settle()
        assert kit.manager.get_agent("Sum/a").total == 4


@virtual
async def test_a_clients_repeat_is_known_to_the_next_owner_and_after_it_lost_the_window_to_none() -> None:
    async with Cluster(Sum, dedup_window=5) as cluster:
        number = partition_of("Sum/a", 4)
        cluster.post("Sum/a", Add(1), id="same")
        await cluster.settle()
        await cluster.assign([1 - owner for owner in cluster.owners])
        await cluster.settle()
        cluster.post("Sum/a", Add(1), id="same")
        await cluster.settle()
        assert cluster.state("Sum/a").total == 1
        (other,) = addresses("Sum", number, 1)
        for _ in range(5):
            cluster.post(other, Add(0))
        cluster.post("Sum/a", Add(1), id="same")
        await cluster.settle()
        assert cluster.state("Sum/a").total == 2


@virtual
async def test_a_hole_in_the_log_is_asked_for_once_and_then_passed() -> None:
    async with Cluster(Sum, partitions=1, workers=1) as cluster:
        inbox = cluster.log._records["cluster.inbox.normal", 0]
        for n in (1, 2, 4):
            cluster.post("Sum/a", Add(n))
        del inbox[1]  # the record with n = 2, at offset 1
        cluster.failed(0)  # this log counts by places, and ends too soon for the look at the ground
        sought = []
        port, seek = cluster.ports[0], cluster.ports[0].seek
        hole_at = 1

        def remember(partition: int, lane: int, offset: int) -> None:
            sought.append(offset)
            seek(partition, lane, min(offset, hole_at))  # offsets behind the hole are places + 1

        port.seek = remember  # type: ignore[method-assign]
        await asyncio.sleep(5)
        assert sought == [1]
        assert cluster.state("Sum/a").total == 5
        partition = cluster.engine(0)._partition(0)
        assert partition is not None
        assert partition.lanes[1].prefix == 3


@virtual
async def test_more_than_the_window_is_fetched_in_turns_and_none_is_forgotten() -> None:
    async with Cluster(Sum, partitions=1, workers=1, window_max=100) as cluster:
        paused = []
        port, pause = cluster.ports[0], cluster.ports[0].pause

        def remember(partition: int, lane: int) -> None:
            paused.append(lane)
            pause(partition, lane)

        port.pause = remember  # type: ignore[method-assign]
        for _ in range(3_000):
            cluster.post("Sum/a", Add(1))
        await cluster.settle()
        assert cluster.state("Sum/a").total == 3_000
        assert len(paused) > 1
        assert port.paused == set()


@virtual
async def test_what_is_over_the_limits_becomes_a_letter_and_holds_up_nothing() -> None:
    async with Kit(Sum) as kit:
        put_json(kit, "Sum/a", b'{"type": "Add", "n": 1}', *[("h", b"")] * 100_000)
        put_json(kit, "Sum/a", b'{"type": "Add", "n": 1}', ("id", b"x" * 900_000))
        put_json(kit, "Sum/a", b'{"type": "' + b"x" * 900_000 + b'"}')
        put_json(kit, "Sum/a", b"[" * 900_000)
        post(kit.log, "Sum/a", Add(1), id="x" * 900_000)
        put_json(kit, "Sum/a", b'{"type": "Add", "n": 2}')
        await kit.settle()
        reasons = [letter.reason for letter in kit.dead_letters()]
        assert reasons == ["frame-too-large"] * 3 + ["undecodable", "frame-too-large"]
        assert kit.manager.get_agent("Sum/a").total == 2
