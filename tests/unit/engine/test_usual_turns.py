"""What a turn must do alike whether it is compiled or not: `make test-pure` runs these on the Python twin."""

from __future__ import annotations

import asyncio
import enum
import gc
import struct
from collections.abc import Iterable
from dataclasses import field
from typing import Any, ClassVar, Self

import pydantic
import pytest

from rookery.agents import Agent, handler
from rookery.schemas.envelope import decode
from rookery.schemas.partition_errors import LeaseLost
from rookery.streams.engine.engine import Engine
from rookery.testing import Kit, run
from tests.unit.engine.harness import Cluster, post, virtual


def remaining(kind: type[Any]) -> list[Any]:
    """What there is of a class once nobody needs it."""
    gc.collect()
    gc.collect()
    return [thing for thing in gc.get_objects() if isinstance(thing, kind)]


LARGEST_REPLY = 1_894  # bytes, of Answering to a client with the ids below, where a message may have 2,000


class Kind(enum.StrEnum):
    TOTAL = "total"


class Once(pydantic.BaseModel):
    """It can be encoded only once."""

    numbers: Iterable[int]


class Answering(Agent):
    turns: int = 0

    @handler("enum")
    async def by_enum(self, msg: dict[str, Any]) -> Any:
        self.turns += 1
        return {"type": Kind.TOTAL, "n": 1}

    @handler("once")
    async def once(self, msg: dict[str, Any]) -> Any:
        return Once(numbers=(number for number in range(3)))

    @handler("sized")
    async def sized(self, msg: dict[str, Any]) -> Any:
        return b"x" * msg["n"]


class Resting(Agent):
    @handler("enum")
    async def rest(self, msg: dict[str, Any]) -> None:
        await asyncio.sleep(3_600)


class Slow(Agent):
    turns: int = 0

    @handler("go")
    async def go(self, msg: dict[str, Any]) -> None:
        self.turns += 1

    async def on_passivate(self) -> None:
        await asyncio.sleep(5)


class Warm(Agent):
    warmth: int = 0

    @handler("go")
    async def go(self, msg: dict[str, Any]) -> None:
        self._seen = getattr(self, "_seen", 0) + 1
        self.warmth = self._seen


class Tidied(Agent):
    text: str = ""
    items: list[Any] = field(default_factory=list)

    @handler("go")
    async def go(self, msg: dict[str, Any]) -> None:
        self.text = "x" * 1_000
        self.items = [[number] for number in range(50)]
        gc.collect()
        gc.disable()
        Tidying(self)
        gc.set_threshold(1)  # the next object collects
        gc.enable()


class Tidying:
    """In a cycle: when the collector finds it, it changes its agent."""

    def __init__(self, agent: Tidied) -> None:
        self.me, self.agent = self, agent

    def __del__(self) -> None:
        self.agent.text, self.agent.items = "short", ["new"]


class Keeping(Agent):
    @handler("go")
    async def go(self, msg: dict[str, Any]) -> None:
        self._kept = asyncio.ensure_future(self.step("for ever", asyncio.Event().wait))
        await asyncio.sleep(0)


class Seen(Agent):
    """Each would notice if an agent came to memory without its class being asked."""

    text: str = ""

    @handler("go")
    async def go(self, msg: dict[str, Any]) -> None:
        self.text = f"{self.id} {self._told()}"

    def _told(self) -> str:
        return ""


class Setting(Seen):
    _names: set[str]

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "id":
            object.__setattr__(self, "_names", set())
        self._names.add(name)
        super().__setattr__(name, value)

    def _told(self) -> str:
        return " ".join(sorted(name for name in self._names if not name.startswith("_")))


class Counted(Seen):
    made: ClassVar[int] = 0

    def __new__(cls, *args: Any) -> Self:
        cls.made += 1
        return super().__new__(cls)

    def _told(self) -> str:
        return f"number {self.made}"


class Wrapped(Seen):
    def _told(self) -> str:
        return str(self._wrapped)  # type: ignore[attr-defined]


def wrap(cls: type[Agent]) -> None:
    """As a tracer does, once the class is there."""
    init = cls.__init__

    def wrapper(self: Any, *args: Any) -> None:
        init(self, *args)
        self._wrapped = True

    cls.__init__ = wrapper  # type: ignore[assignment,method-assign]


def replies(cluster: Cluster, client: str) -> list[bytes]:
    return [record.value or b"" for record in cluster.log.records(f"cluster.replies.{client}", 0)]


@virtual
async def test_a_dict_may_name_its_type_by_an_enum() -> None:
    async with Cluster(Answering, workers=1, partitions=1) as cluster:
        for _ in range(3):
            cluster.post("Answering/1", {"type": "enum"}, reply_to="client:y")
        await cluster.settle()
        assert [decode(value).type for value in replies(cluster, "y")] == ["total"] * 3
        assert cluster.state("Answering/1").turns == 3


@pytest.mark.parametrize("client", ["json:y", "client:y"])
@virtual
async def test_a_reply_is_encoded_once(client: str) -> None:
    async with Cluster(Answering, workers=1, partitions=1) as cluster:
        for _ in range(3):
            cluster.post("Answering/1", {"type": "once"}, reply_to=client)
        await cluster.settle()
        found = replies(cluster, "y")
        payloads = found if client == "json:y" else [bytes(decode(value).payload) for value in found]
        assert payloads == [b'{"numbers":[0,1,2]}'] * 3


@virtual
async def test_a_damaged_record_is_a_dead_letter_and_the_worker_goes_on() -> None:
    async with Cluster(Slow, workers=1, partitions=1, passivate_after=1) as cluster:
        cluster.post("Slow/1", {"type": "go"})
        await cluster.settle()
        await asyncio.sleep(10)
        partition = cluster.engine(0).running_partitions()[0]
        partition.store.apply({b"Slow/1": struct.pack("<BBIH", 1, 0, 0, 2) + b"\xff\xfe\x80"}, partition.store.mark)
        cluster.post("Slow/1", {"type": "go"})
        await asyncio.sleep(10)
        assert [letter.reason for letter in cluster.dead_letters()] == ["bad-journal-record"]


@virtual
async def test_an_agent_in_use_stays_while_a_hook_of_another_takes_its_time() -> None:
    async with Cluster(Slow, Warm, workers=1, partitions=1, passivate_after=3) as cluster:
        cluster.post("Slow/1", {"type": "go"})
        await asyncio.sleep(0.1)
        cluster.post("Warm/1", {"type": "go"})
        await asyncio.sleep(3.9)
        for _ in range(10):
            cluster.post("Warm/1", {"type": "go"})
            await asyncio.sleep(1)
        assert cluster.state("Warm/1").warmth >= 10


@virtual
async def test_a_finalizer_may_change_an_agent_while_its_state_is_taken() -> None:
    thresholds = gc.get_threshold()
    try:
        async with Cluster(Tidied, workers=1, partitions=1) as cluster:
            for _ in range(5):
                cluster.post("Tidied/1", {"type": "go"})
            await cluster.settle()
            gc.set_threshold(*thresholds)
            assert len(cluster.state("Tidied/1").text) in (5, 1_000)
    finally:
        gc.set_threshold(*thresholds)
        gc.enable()


@virtual
async def test_agents_of_a_lost_partition_leave_memory_whatever_they_keep() -> None:
    async with Cluster(Keeping, workers=1, partitions=1) as cluster:
        for number in range(20):
            cluster.post(f"Keeping/{number}", {"type": "go"})
        await cluster.settle()
        (ownership,) = cluster.engine(0).ownerships
        ownership.lost("for a test")
        await cluster.settle()
        assert not remaining(Keeping)


@virtual
async def test_so_do_those_whose_turns_were_on_their_way_to_the_journal() -> None:
    async with Cluster(Keeping, workers=1, partitions=1) as cluster:
        (ownership,) = cluster.engine(0).ownerships

        async def refuse(*_: object) -> None:
            await asyncio.sleep(0.001)
            raise LeaseLost(0, "for a test")

        ownership._lease.append = refuse  # type: ignore[union-attr,method-assign]
        for number in range(20):
            cluster.post(f"Keeping/{number}", {"type": "go"})
        await cluster.settle()
        assert cluster.engine(0).counts["lost_leases"] == 1
        ownership.lost("for a test, of those that came again")
        await cluster.settle()
        assert not remaining(Keeping)


@pytest.mark.parametrize("target", ["Answering/{}", "Resting/{}"])
def test_an_engine_that_was_stopped_leaves_memory(target: str) -> None:
    """With agents that come and go, and with some at work."""

    async def start_and_stop() -> None:
        async with Kit(Answering, Resting, partitions=1, activations_max=5, adopt_after=0.1) as kit:
            for number in range(200):
                post(kit.log, target.format(number), {"type": "enum"})
            await asyncio.sleep(3)

    before = len(remaining(Engine))
    run(start_and_stop())
    assert len(remaining(Engine)) == before


@virtual
async def test_a_reply_to_a_client_may_be_as_large_the_second_time() -> None:
    async with Cluster(Answering, workers=1, partitions=1, message_bytes_max=2_000) as cluster:
        refused = []
        for number, more in enumerate([0, 0, 1]):
            message = {"type": "sized", "n": LARGEST_REPLY + more}
            cluster.post("Answering/1", message, reply_to="client:y", id=f"m{number}")
            await cluster.settle()
            refused.append(len(cluster.dead_letters()))
        assert refused == [0, 0, 1]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Setting, "Setting/1 id"),
        (Counted, "Counted/1 number 1"),
        (Wrapped, "Wrapped/1 True"),
    ],
)
@virtual
async def test_a_class_that_has_a_say_in_how_agents_are_made_is_asked(kind: type[Seen], text: str) -> None:
    if kind is Wrapped:
        wrap(kind)
    async with Cluster(kind, workers=1, partitions=1) as cluster:
        cluster.post(f"{kind.__name__}/1", {"type": "go"})
        await cluster.settle()
        assert cluster.state(f"{kind.__name__}/1").text == text
