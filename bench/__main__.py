"""All measurements from one command; see docs/benchmarks.md.

    python -m bench [--all] [--pairs 7] [--scale 1] [--minutes 20] [--list] [experiment ...]

Starts a Kafka if none is configured. Results go to bench/results.json, row by row, as they are found; those of a trial
(fewer pairs, smaller scale) to .rookery/bench.json.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

from bench import report
from bench.harness import MINUTES, PAIRS, RESULTS, TRIAL, Experiment, Harness, Results, Skipped, Void, say
from bench.table import EXPERIMENTS
from rookery.ops import servers

QUICK_SECONDS = 420.0
"""`make bench` begins no experiment later than this, so that a slow machine ends in about ten minutes, too:
the longest takes under three on a quiet one."""


def is_trial(options: argparse.Namespace) -> bool:
    """Whether less is measured than a result needs."""
    return bool(options.pairs < PAIRS or options.scale < 1 or options.minutes < MINUTES)


async def measure(broker: str, chosen: list[Experiment], options: argparse.Namespace) -> list[str]:
    """Run the experiments one after the other; returns the names of those that failed."""
    trial = is_trial(options)
    results = Results(TRIAL if trial else RESULTS)
    h = Harness(broker, results, options.pairs, options.scale, options.minutes)
    began = time.monotonic()
    failed = []
    for number, experiment in enumerate(chosen, 1):
        elapsed = time.monotonic() - began
        say(f"[{number}/{len(chosen)}, {elapsed:.0f} s] {experiment.name}")
        if not (options.all or options.experiments) and elapsed > QUICK_SECONDS:
            say("  left out: no time left, the machine is slow or busy")
            results.fail(experiment.rows, "no time left in make bench")
            continue
        h.begin()
        try:
            await experiment.run(h)
        except Skipped as why:
            say(f"  skipped: {why}")
            results.fail(experiment.rows, str(why))
        except Void as why:
            say(f"  VOID: {why}")
            results.void(experiment.rows, str(why))
            failed.append(experiment.name)
        except Exception as error:  # the others still count
            say(f"  FAILED: {error!r}")
            results.fail(experiment.rows, f"failed: {error!r}")
            failed.append(experiment.name)
    say(f"done in {time.monotonic() - began:.0f} s")
    return failed


def main() -> int:
    """Parse, measure; the exit code is 1 if an experiment was void or failed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="measurements; see docs/benchmarks.md")
    parser.add_argument("experiments", nargs="*", metavar="experiment", help="only these")
    parser.add_argument("--all", action="store_true", help="also those that take longer")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="runs of each side")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the counts of messages, for a trial")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="how long a soak lasts")
    parser.add_argument("--list", action="store_true", help="what there is")
    options = parser.parse_args()
    if options.list:
        for experiment in EXPERIMENTS:
            say(f"{experiment.name:16} {'quick' if experiment.quick else 'all  '}  {experiment.run.__doc__}")
        return 0
    if unknown := set(options.experiments) - {experiment.name for experiment in EXPERIMENTS}:
        parser.error(f"no such experiment: {', '.join(sorted(unknown))}; see --list")
    chosen = [
        experiment
        for experiment in EXPERIMENTS
        if (experiment.name in options.experiments if options.experiments else options.all or experiment.quick)
    ]
    with servers.ensure(kafka=True) as found:
        failed = asyncio.run(measure(found.broker, chosen, options))
    if not is_trial(options):
        report.write(Results())
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
