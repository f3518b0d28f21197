"""`python -m tests.chaos`: one run; the last line is the verdict, and the exit status says it, too."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from tests.chaos import nemesis
from tests.chaos.broker import own_brokers
from tests.chaos.run import Plan, Run, Verdict

# What one minute on a small machine can hold.
USUAL = (
    "kill",
    "failpoint",
    "die-in-recovery",
    "freeze",
    "term",
    "duplicates",
    "storm",
    "broker-restart",
    "redis-away",
    "redis-flush",
)
CODES = {"OK": 0, "FAILED": 1, "INVALID": 2, "OVERLOAD": 3}


def say(line: str) -> None:
    print(line, flush=True)


def run(plan: Plan, brokers: int = 1) -> Verdict:
    """A run on brokers of its own."""
    with own_brokers(say, brokers) as found:
        return asyncio.run(Run(plan, found, say)())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="a fleet under faults on a real Kafka")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long the load lasts")
    parser.add_argument("--seed", type=int, default=1, help="of load and faults")
    parser.add_argument("--brokers", type=int, default=1, choices=(1, 3))
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--agents", type=int, default=300)
    parser.add_argument("--partitions", type=int, default=6)
    parser.add_argument("--rate", type=float, default=200.0, help="client messages a second; agents send as many again")
    parser.add_argument("--session-timeout", type=float, default=10.0, help="seconds until a dead worker is missed")
    parser.add_argument("--gap", type=float, default=5.0, help="seconds between faults, about")
    parser.add_argument("--faults", default=",".join(USUAL), help=f"kinds: {', '.join(sorted(nemesis.KINDS))}, or none")
    parser.add_argument("--store", default="memory", choices=("memory", "rocksdb"))
    parser.add_argument("--standbys", type=int, default=0, help="copies of each partition on other workers")
    parser.add_argument("--emphasis", default="", help="more of a kind, such as poison=0.9, long=0.01, fickle=0.2")
    parser.add_argument("--compaction", action="store_true", help="compact the journal meanwhile, without a lag")
    parser.add_argument("--off", default="", help="a mechanism to switch off, see `mutations`")
    parser.add_argument("--folder", type=Path, default=Path(".rookery/chaos"), help="logs and history")
    options = vars(parser.parse_args())
    kinds = [kind for kind in options.pop("faults").split(",") if kind and kind != "none"]
    if unknown := set(kinds) - set(nemesis.KINDS):
        parser.error(f"no such fault: {', '.join(sorted(unknown))}")
    brokers = options.pop("brokers")
    pairs = [pair.split("=") for pair in options.pop("emphasis").split(",") if pair]
    options["emphasis"] = {name: float(share) for name, share in pairs}
    verdict = run(Plan(kinds=kinds, **options), brokers)
    say(verdict.line)
    return CODES[verdict.word]


if __name__ == "__main__":
    sys.exit(main())
