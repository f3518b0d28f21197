"""Without a mechanism some seed goes red; with all of them it is green."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from rookery.streams.core import loops
from rookery.streams.core.progress import LaneProgress
from tests.simulation.mutations import MUTATIONS
from tests.simulation.runs import report, run_seed

# Within so many seeds each mechanism has to be missed.
SEARCHED = 1_000
# One alone and one pair are among the quick tests.
QUICK = ("ordered", "fence+contiguity")


def _search(name: str) -> None:
    mutation = MUTATIONS[name]
    found = set[str]()
    for seed in itertools.chain([mutation.seed], range(SEARCHED)):
        names = {anomaly.name for anomaly in run_seed(seed, [name]).anomalies}
        found |= names
        if mutation.gives in names:
            outcome = run_seed(seed)
            assert not outcome.anomalies, report(outcome)
            return
    pytest.fail(f"{SEARCHED} seeds find {sorted(found)} without {mutation.without}, but not {mutation.gives}")


@pytest.mark.parametrize("name", QUICK)
def test_a_seed_is_red_without(name: str) -> None:
    _search(name)


def _marked(name: str) -> Any:
    """A mechanism in what may be compiled can be switched off in its Python twin only."""
    replaced = any(owner in (LaneProgress, loops) for owner, _, _ in MUTATIONS[name].patches)
    return pytest.param(name, marks=[pytest.mark.pure] if replaced else [])


@pytest.mark.simulation
@pytest.mark.parametrize("name", [_marked(name) for name in MUTATIONS if name not in QUICK])
def test_a_seed_is_red_without_what_shows_more_rarely(name: str) -> None:
    _search(name)
