"""Seeds are green, replay identically, and their faults happen."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest

from tests.simulation.faults import MOMENTS, REQUESTS
from tests.simulation.runs import report, run_seed
from tests.simulation.world import World

# So many run with all tests; `python -m tests.simulation` runs as many as one likes.
SEEDS = 200
QUICK_SEEDS = 3


def _run(seeds: range) -> Counter[str]:
    stats: Counter[str] = Counter()
    for seed in seeds:
        outcome = run_seed(seed)
        assert not outcome.anomalies, report(outcome)
        stats += outcome.stats
    return stats


def test_a_few_seeds_are_green() -> None:
    _run(range(QUICK_SEEDS))


@pytest.mark.long
@pytest.mark.simulation
def test_all_seeds_are_green_and_every_kind_of_fault_strikes() -> None:
    stats = _run(range(QUICK_SEEDS, SEEDS))
    kinds = Counter[str]()
    for name, count in stats.items():
        kinds[name.partition(" ")[0]] += count
    for kind in ("kill", "freeze", "lose", "deafen", "late", "refuse", "cut", "repeat", "jump", "hold", "compact",
                 "rebalance", "forget", "retain"):  # fmt: skip
        assert kinds[kind] > 10, f"{kind} did not happen: these seeds prove nothing about it"
    around = {f"{kind} {on} {moment}" for kind in ("kill", "freeze") for on in REQUESTS for moment in MOMENTS}
    assert len(around & stats.keys()) > len(around) / 2, "crashes and freezes miss most of the places they should hit"
    assert stats["appends refused"] > 100, "no zombie ever tried to write"
    for name in ("turns run again", "steps kept", "messages parked", "stores reopened", "pauses", "records lost",
                 "copies promoted", "agents spawned"):  # fmt: skip
        assert stats[name] > 50, name


def test_a_seed_replays_identically() -> None:
    seed = 19
    first, again = World(seed).run(), World(seed).run()
    assert len(first.trace) > 500
    assert first.trace == again.trace
    assert first.stats == again.stats
    assert first.trace != World(seed + 1).run().trace


@pytest.mark.simulation
def test_a_seed_replays_identically_in_another_process_with_other_hashes() -> None:
    code = "from tests.simulation.world import World; print(World(19).run().digest)"
    for hash_seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        printed = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        assert printed.stdout.strip() == World(19).run().digest
