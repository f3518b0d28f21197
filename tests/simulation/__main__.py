"""Run seeds of the simulation, several at once.

python -m tests.simulation --seeds 1000
python -m tests.simulation --seed 7 --trace
python -m tests.simulation --seeds 1000 --off ring
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable

from tests.simulation.mutations import MUTATIONS
from tests.simulation.runs import report, run_seed, sweep
from tests.simulation.world import Outcome


def main() -> int:
    """Run what the command line asks for; 1 if a seed is red."""
    parser = argparse.ArgumentParser("python -m tests.simulation", description="Seeded runs of the engine with faults.")
    parser.add_argument("--seeds", type=int, default=1_000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="this one only")
    parser.add_argument("--off", default="", help="mechanisms to switch off: " + ", ".join(MUTATIONS))
    parser.add_argument("--trace", action="store_true", help="show all that happened in --seed")
    parser.add_argument("--red", type=int, default=10, help="stop after so many red seeds")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    options = parser.parse_args()
    off = [name for name in options.off.split(",") if name]
    started, red, ran, stats = time.perf_counter(), 0, 0, Counter[str]()
    if options.seed is not None:
        outcomes: Iterable[Outcome] = [run_seed(options.seed, off, options.trace)]
        print(*outcomes[0].trace, sep="\n")  # type: ignore[index]
    else:
        outcomes = sweep(range(options.first, options.first + options.seeds), off, options.jobs)
    for outcome in outcomes:
        ran += 1
        stats += outcome.stats
        if outcome.anomalies:
            red += 1
            print(report(outcome, off))
            if red >= options.red:
                break
        if sys.stderr.isatty():
            print(f"\r{ran} seeds, {red} red", end="", file=sys.stderr)
    print(*(f"{count:8}  {name}" for name, count in sorted(stats.items())), sep="\n")
    print(f"{ran} seeds, {red} red, {time.perf_counter() - started:.1f} s")
    return 1 if red else 0


if __name__ == "__main__":
    sys.exit(main())
