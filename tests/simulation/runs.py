"""Running seeds: one, or many at once in several processes, and saying what a red one found."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from tests.simulation.mutations import switched_off
from tests.simulation.world import Outcome, World

# Anomalies of one seed that are shown; the first is the cause of most others.
SHOWN_MAX = 6


def run_seed(seed: int, off: Sequence[str] = (), traced: bool = False) -> Outcome:
    """Run one seed, without the mechanisms in `off`; the trace is left out unless it is asked for."""
    with switched_off(off):
        outcome = World(seed).run()
    if not traced:
        outcome.trace.clear()
    return outcome


def report(outcome: Outcome, off: Sequence[str] = ()) -> str:
    """What a red seed found, and how to see it again."""
    lines = [f"seed {outcome.seed}: {len(outcome.anomalies)} anomalies"]
    lines += [f"    {anomaly.name}: {anomaly.detail}" for anomaly in outcome.anomalies[:SHOWN_MAX]]
    options = f" --off {','.join(off)}" if off else ""
    return "\n".join([*lines, f"  replay: python -m tests.simulation --seed {outcome.seed} --trace{options}"])


def sweep(seeds: Iterable[int], off: Sequence[str], jobs: int) -> Iterator[Outcome]:
    """Run seeds in `jobs` processes, in the order in which they are given."""
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(partial(run_seed, off=off), seeds, chunksize=4)
