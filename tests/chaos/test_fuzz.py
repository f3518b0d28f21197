"""The fuzzer's own test, and a small share of what it does."""

import random

from tests.chaos.fuzz import damage, fuzz


def test_damaged_envelopes_are_refused_and_never_crash_the_reader() -> None:
    outcomes, fooled = fuzz(5_000, seed=3)
    assert fooled == 0
    assert {"CrcMismatch", "MissingCrc"} <= outcomes.keys()


def test_damage_damages() -> None:
    rng = random.Random(1)
    good = bytes(range(200))
    assert sum(damage(rng, good) != good for _ in range(500)) > 480
