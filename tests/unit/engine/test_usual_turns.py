"""What a turn must do alike whether it is compiled or not: `make test-pure` runs these on the Python twin."""

from __future__ import annotations

import asyncio
import enum
import gc
import struct
from collections.abc import Iterable
from dataclasses import field
from typing import Any

import pydantic
import pytest

from rookery.agents import Agent, handler
from rookery.schemas.envelope import decode
from tests.unit.engine.harness import Cluster, virtual


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
