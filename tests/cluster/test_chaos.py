"""A minute of everything: a fleet of real workers under faults, then every topic and every agent checked."""

import pytest

from tests.chaos.__main__ import USUAL, run
from tests.chaos.run import Plan

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


def test_a_fleet_under_faults_loses_and_doubles_nothing() -> None:
    verdict = run(Plan(seed=7, minutes=1.0, kinds=USUAL))
    if verdict.word == "OVERLOAD":
        pytest.skip(verdict.line)  # says nothing about the fleet
    assert verdict.word == "OK", verdict.line
