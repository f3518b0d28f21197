"""How many cases the quick tests run: the first ones, and `make test` the rest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def quick(values: Iterable[Any], count: int = 1) -> list[Any]:
    """Parameters of which the first `count` are among the quick tests, and the others are marked slow."""
    return [
        value if number < count else pytest.param(value, marks=pytest.mark.slow) for number, value in enumerate(values)
    ]
