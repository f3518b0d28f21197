"""What a run shows: a live table on a terminal, a line every few seconds elsewhere."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table

from examples.flights.expected import Verdict
from rookery import Priority

DIFFERENCES_MAX = 20
"""Differences that are listed; the counts cover all."""

_LINE_SECONDS = 3.0


@dataclass
class Progress:
    """What a run knows about itself; `backlog` counts messages, `rate` is turns per second over the last seconds."""

    app_id: str
    records: int
    started: float = field(default_factory=time.monotonic)
    doing: str = "starting"
    sent: int = 0
    turns: int = 0
    rate: float = 0.0
    backlog: Mapping[Priority, int] = field(default_factory=dict)
    workers: int = 0
    restarts: int = 0
    worst: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """States of some planes, by address."""

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.monotonic() - self.started


class View:
    """Shows progress until the block ends."""

    def __init__(self, progress: Progress, console: Console | None = None) -> None:
        """Write to the console, by default to standard output."""
        self._progress = progress
        self._console = console or Console()
        self._live: Live | None = None
        self._next_line = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(table(self._progress), console=self._console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self.show()
            self._live.stop()

    def show(self) -> None:
        """Show the progress as it is now; without a terminal, at most one line every three seconds."""
        if self._live is not None:
            self._live.update(table(self._progress), refresh=True)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _LINE_SECONDS
            self._console.file.write(line(self._progress) + "\n")
            self._console.file.flush()


def line(progress: Progress) -> str:
    """The progress in one line."""
    backlog = ", ".join(f"{progress.backlog.get(tier, 0):,} {tier.name}" for tier in reversed(Priority))
    return (
        f"{progress.seconds:5.0f} s  {progress.doing}: {progress.sent:,} of {progress.records:,} sent, "
        f"{progress.turns:,} turns, {progress.rate:,.0f}/s, backlog {backlog}"
    )


def table(progress: Progress) -> RenderableType:
    """The progress as tables."""
    job = Table(title=f"{progress.app_id}: {progress.doing}", show_header=False, title_justify="left")
    job.add_column(style="dim")
    job.add_column(justify="right", min_width=12)
    job.add_row("seconds", f"{progress.seconds:,.0f}")
    job.add_row("departures sent", f"{progress.sent:,} of {progress.records:,}")
    job.add_row("turns", f"{progress.turns:,} of {3 * progress.records:,}")
    job.add_row("turns per second", f"{progress.rate:,.0f}")
    for tier in reversed(Priority):
        job.add_row(f"backlog {tier.name}", f"{progress.backlog.get(tier, 0):,}")
    job.add_row("workers", f"{progress.workers}" + (f", {progress.restarts} restarted" if progress.restarts else ""))
    planes = Table(title="the worst planes, as they say themselves", title_justify="left")
    for name in ("plane", "worst delay", "minutes late", "legs", "cancelled", "last to"):
        planes.add_column(name, justify="left" if name in {"plane", "last to"} else "right")
    for address, state in sorted(progress.worst.items(), key=lambda item: -(item[1]["worst"] or 0)):
        figures = (f"{state[name] or 0:,}" for name in ("worst", "minutes_late", "legs", "cancelled"))
        planes.add_row(address.removeprefix("Plane/"), *figures, state["destination"])
    return Group(job, planes)


def report(verdict: Verdict, seconds: float) -> None:
    """Print the result; the form of its last line is promised."""
    for difference in verdict.differences[:DIFFERENCES_MAX]:
        print(difference)
    if (hidden := len(verdict.differences) - DIFFERENCES_MAX) > 0:
        print(f"... and {hidden:,} more agents")
    print(
        f"{'OK' if verdict.ok else 'FAILED'} {verdict.turns} turns in {seconds:.1f} s, "
        f"{verdict.turns / max(seconds, 0.001):.0f}/s, {verdict.lost} lost, {verdict.doubled} doubled"
    )
