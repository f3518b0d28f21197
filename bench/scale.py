"""How the rate of durable turns depends on how many agents and partitions there are, and on sizes."""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial

from bench import journals
from bench.harness import Figures, Harness, Measure
from bench.processes import application, handle
from bench.turns import PARTITIONS, durable
from bench.workload import Blob, names, records
from rookery import Client
from rookery.ops.settings import Settings

AGENTS = (1_000, 10_000, 100_000, 1_000_000)
PARTITION_COUNTS = (4, 12, 48, 192)
STATES = {"100b": 100, "10kb": 10_000, "100kb": 100_000}
PAYLOADS = {"100b": 100, "1kb": 1_000, "10kb": 10_000, "100kb": 100_000}
SIZES = {f"mixed_{p}_{s}_mb_per_s": (payload, state) for p, payload in PAYLOADS.items() for s, state in STATES.items()}
"""Row, bytes of payload, bytes of state."""
BYTES = 1e9
"""Payload and state that the turns of one run of `mixed_sizes` handle together."""


class Population:
    """An application whose agents are all in the journal; a run goes on where the last ended."""

    def __init__(self, h: Harness, settings: Settings, agents: int, count: int) -> None:
        self._h, self._settings, self._agents, self._count = h, settings, agents, count
        self._handled = 0

    async def fill(self) -> None:
        """Write the agents."""
        fresh = {"count": 0, "total": 0, "pad": "x" * 60}
        await journals.fill(self._settings, "Counter", [fresh] * self._agents)

    async def run(self) -> Figures:
        """A fresh worker recovers all of them, then handles messages to random ones."""
        self._handled += self._count
        targets = random.choices(names(self._agents), k=self._count)
        messages = records(self._count, self._settings.partitions, targets)

        async def counted(_: Client) -> int:  # by the journal: it would take long to ask them all
            return (await journals.read(self._settings)).counted

        return await handle(
            self._settings, self._h.broker_pid, messages, self._count, replies=True, verify=counted,
            expected=self._handled,
        )  # fmt: skip


def _record(h: Harness, row: str, runs: Mapping[str, list[Figures]], count: int) -> None:
    """The fastest over the slowest of each round, and the median rate of each size."""
    rounds = [[run["per_s"] for run in each] for each in zip(*runs.values(), strict=True)]
    rates = {f"per_s_{name}": round(statistics.median(run["per_s"] for run in found)) for name, found in runs.items()}
    h.record(row, [max(rates) / min(rates) for rates in rounds], count=count, **rates)


async def scale_agents(h: Harness) -> None:
    """Messages to random ones of 1,000 to 1,000,000 agents, all of which have a state already."""
    count = h.count(700_000)
    async with AsyncExitStack() as stack:
        ways: dict[str, Measure] = {}
        for size in AGENTS:
            agents = h.count(size)
            settings = await stack.enter_async_context(application(h.broker, PARTITIONS))
            population = Population(h, settings, agents, count)
            await population.fill()
            ways[f"{size}"] = population.run
        _record(h, "scale_agents", await h.interleaved(ways), count)


async def scale_partitions(h: Harness) -> None:
    """1,000 agents on 4 to 192 partitions of one worker."""
    count = h.count(800_000)
    ways = {f"{number}": partial(durable, h, count, partitions=number) for number in PARTITION_COUNTS}
    _record(h, "scale_partitions", await h.interleaved(ways), count)


async def mixed_sizes(h: Harness) -> None:
    """Payloads of 100 B to 100 kB to agents with 100 B to 100 kB of state, all of which a turn changes."""
    counts = {name: min(h.count(200_000), h.count(int(BYTES / sum(sizes)))) for name, sizes in SIZES.items()}
    ways = {
        name: partial(durable, h, counts[name], message=Blob(state, "x" * payload))
        for name, (payload, state) in SIZES.items()
    }
    for name, runs in (await h.interleaved(ways)).items():
        rate = statistics.median(run["per_s"] for run in runs)
        figures = [run["per_s"] * sum(SIZES[name]) / 1e6 for run in runs]
        h.record(name, figures, count=counts[name], turns_per_s=round(rate))
