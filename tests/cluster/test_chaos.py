"""A minute of everything, and whether the checker would have noticed: real workers under faults on their own Kafka."""

import time

import pytest

from tests.chaos.__main__ import USUAL, run
from tests.chaos.killtable import table
from tests.chaos.mutations import MUTATIONS, QUICK
from tests.chaos.run import Plan

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

SLOW = [mutation.name for mutation in MUTATIONS if mutation.name not in QUICK]


def test_a_fleet_under_faults_loses_and_doubles_nothing() -> None:
    verdict = run(Plan(seed=7, minutes=1.0, kinds=USUAL))
    if verdict.word == "OVERLOAD":
        pytest.skip(verdict.line)  # says nothing about the fleet
    assert verdict.word == "OK", verdict.line


def test_a_mechanism_that_is_off_is_found() -> None:
    """Those that show without faults, and each day another one of the rest; `make kill-table` tries all."""
    todays = SLOW[int(time.time() // 86_400) % len(SLOW)]
    survivors = [str(line) for line in table([*QUICK, todays], print) if not line.killed]
    assert not survivors
