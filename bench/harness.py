"""The one harness: interleaved runs, medians of seven unless a run is long, load noticed, results kept by row name.

An experiment is a coroutine function that takes a `Harness`, measures, and records its rows. It raises `Void` when
totals are wrong after the clock stopped, and `Skipped` when this machine lacks something.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import machine
from rookery import __version__

RESULTS = Path(__file__).parent / "results.json"
TRIAL = Path(".rookery/bench.json")
"""Results of trial runs: fewer pairs or messages."""
PAIRS = 7
MINUTES = 20.0
REPEATS_MAX = 6
"""Runs that are repeated because of foreign load, over all experiments: a machine that stays busy is not waited for."""

Figures = dict[str, float]
Measure = Callable[[], Awaitable[Figures]]


class Void(Exception):
    """The totals were wrong: what was measured is worth nothing."""


class Skipped(Exception):
    """This machine can't run it; the text says what is missing."""


@dataclass(frozen=True)
class Row:
    """A line of the table. `better` is "higher" or "lower"; a row without a bar is there to be known."""

    name: str
    unit: str
    better: str
    title: str
    bar: float | None = None
    aim: float | None = None


@dataclass(frozen=True)
class Experiment:
    """What measures some rows; `quick` ones are part of `make bench`."""

    name: str
    run: Callable[[Harness], Awaitable[None]]
    rows: tuple[Row, ...]
    quick: bool = False


class Harness:
    """What an experiment is lent: the broker, interleaving, and a place for its rows."""

    def __init__(
        self, broker: str, results: Results, pairs: int = PAIRS, scale: float = 1.0, minutes: float = MINUTES
    ) -> None:
        """`scale` multiplies the counts of messages, for trials; `minutes` is how long a soak lasts."""
        self.broker = broker
        self.broker_pid = machine.broker_pid(broker)
        self.pairs = pairs
        self.results = results
        self.scale = scale
        self.minutes = minutes
        self._repeats = 0
        self._foreign: list[float] = []

    def count(self, messages: int) -> int:
        """So many messages, or fewer on a trial run."""
        return max(1_000, int(messages * self.scale))

    def begin(self) -> None:
        """Forget the last experiment."""
        self._foreign = []

    async def interleaved(self, ways: Mapping[str, Measure], runs: int | None = None) -> dict[str, list[Figures]]:
        """Run each way in turn, `runs` times over (default: the pairs); the order changes each time. What is
        meant to run once is long, and not repeated because of foreign load; neither is a trial."""
        found: dict[str, list[Figures]] = {name: [] for name in ways}
        for number in range(runs or self.pairs):
            for name in list(ways) if number % 2 == 0 else reversed(list(ways)):
                what = f"{number + 1}/{runs or self.pairs} {name}"
                found[name].append(await self._once(what, ways[name], patient=runs != 1 and self.pairs >= PAIRS))
        return found

    async def _once(self, what: str, way: Measure, patient: bool) -> Figures:
        while True:
            watch = machine.Watch(self.broker_pid)
            figures = await way()
            foreign = watch.foreign()
            shown = "  ".join(f"{key} {value:,.4g}" for key, value in figures.items())
            say(f"  {what}: {shown}" + (f"  (others used {foreign:.1f} cores)" if foreign > 0.1 else ""))
            if foreign <= machine.FOREIGN_CORES_MAX or self._repeats >= REPEATS_MAX or not patient:
                self._foreign.append(foreign)
                return figures
            self._repeats += 1
            say("  repeated, because of that load")

    def record(self, row: str, runs: Iterable[float], **more: Any) -> None:
        """Keep the figures of a row; `more` is kept beside them."""
        figures = [float(f"{value:.6g}") for value in runs]
        worst = max(self._foreign, default=0.0)
        result: dict[str, Any] = {
            "median": statistics.median(figures),
            "min": min(figures),
            "max": max(figures),
            "runs": figures,
            **more,
            "foreign_cores_max": round(worst, 2),
            "loaded": worst > machine.FOREIGN_CORES_MAX,
        }
        self.results.keep(row, result)
        say(f"  {row}: {result['median']:,.4g} ({result['min']:,.4g} to {result['max']:,.4g})")

    def ratios(self, row: str, ours: list[Figures], theirs: list[Figures], figure: str, **more: Any) -> None:
        """Keep ours / theirs of each pair, and both medians."""
        pairs = [(mine[figure], other[figure]) for mine, other in zip(ours, theirs, strict=True)]
        medians = [float(f"{statistics.median(side):.6g}") for side in zip(*pairs, strict=True)]
        self.record(row, [mine / other for mine, other in pairs], ours=medians[0], theirs=medians[1], **more)


class Results:
    """`bench/results.json`: rows by name; those that are not measured now stay."""

    def __init__(self, path: Path = RESULTS) -> None:
        self._path = path
        self.content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"rows": {}}

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        """Results by the name of their row."""
        rows: dict[str, dict[str, Any]] = self.content["rows"]
        return rows

    def keep(self, row: str, result: dict[str, Any]) -> None:
        """Write a row, with when and on what it was measured."""
        load = [round(value, 1) for value in os.getloadavg()]
        self.rows[row] = {**result, "load_average": load, "at": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime())}
        self.content = {"version": __version__, "machine": machine.facts(), "rows": dict(sorted(self.rows.items()))}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self.content, indent=1) + "\n")

    def fail(self, rows: Iterable[Row], why: str) -> None:
        """A row that has no result says why; a skipped one keeps what an earlier run found."""
        for row in rows:
            if "median" not in self.rows.get(row.name, {}):
                self.keep(row.name, {"missing": why})

    def void(self, rows: Iterable[Row], why: str) -> None:
        """These rows are worth nothing, whatever was found before."""
        for row in rows:
            self.keep(row.name, {"void": why})


def say(line: str) -> None:
    """Progress, at once."""
    print(line, flush=True)
