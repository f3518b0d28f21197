"""The model itself: what it makes up must not be something that neither processes nor logs do."""

from __future__ import annotations

import asyncio
import contextvars

import pytest

from rookery.streams.core.partition import Partition
from rookery.streams.engine.ground import Ground
from rookery.testing import run
from tests.simulation.faults import Fault, Plan
from tests.simulation.process import Gate, task_factory
from tests.simulation.world import World

_variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="")


def test_a_process_has_nothing_of_the_one_that_it_follows() -> None:
    """A step of that one may be where it was killed; its agents could not send then, being inside a step."""
    found = []

    async def second() -> None:
        found.append(_variable.get())

    async def first() -> None:
        _variable.set("of the first")
        Gate("second").start(second())

    async def scenario() -> None:
        asyncio.get_running_loop().set_task_factory(task_factory)
        Gate("first").start(first())
        await asyncio.sleep(1)

    run(scenario())
    assert found == [""]


def test_what_is_held_up_is_not_overtaken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a gap is seen twice where no hole is, against the contract of `Log.seek`: what lies in it is lost."""
    gaps = []
    look = Ground.look

    def counted(ground: Ground, partition: Partition, lane: int) -> None:
        gaps.append((partition.number, lane))
        look(ground, partition, lane)

    monkeypatch.setattr(Ground, "look", counted)
    for seed in range(2):
        world = World(seed)
        world.faults = Plan([Fault("hold", 0.1, on="fetch", seconds=0.3, count=1_000)])
        outcome = world.run()
        assert not outcome.anomalies
        assert outcome.stats["hold fetch"] > 30
    assert gaps == []
