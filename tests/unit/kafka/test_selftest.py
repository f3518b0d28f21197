"""The self-test passes here, and says what to install when the ground is another one."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from rookery.schemas.errors import IncompatibleVersion
from rookery.streams.kafka import selftest
from rookery.streams.kafka.selftest import KNOWN, PINNED, Known, check, wrong_parts, wrong_versions


class Changed:
    def __init__(self) -> None:
        self.kept = 0

    async def renamed(self) -> None: ...

    def more(self, batch: Any, topic: str, *, partition: int, idempotent: bool = True) -> None: ...


def test_the_installed_versions_are_the_ones_we_know() -> None:
    check()


def test_the_pins_are_those_of_the_project() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert {f"{name}=={number}" for name, number in PINNED.items()} <= set(project["dependencies"])


def test_a_changed_method_is_named() -> None:
    assert wrong_parts([Known(Changed, "gone", "batch"), Known(Changed, "more", "batch topic partition")]) == [
        f"{__name__}.Changed.gone is missing instead of (batch)",
        f"{__name__}.Changed.more is (batch, topic, partition, idempotent) instead of (batch, topic, partition)",
    ]
    assert wrong_parts([Known(Changed, "renamed", selftest.TASK)]) == [
        f"{__name__}.Changed.renamed is () instead of a task"
    ]
    assert wrong_parts([Known(Changed, "kept", selftest.ATTRIBUTE), Known(Changed, "lost", selftest.ATTRIBUTE)]) == [
        f"{__name__}.Changed.lost is missing instead of an attribute"
    ]
    assert wrong_parts(KNOWN) == []


def test_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wrong_versions({"aiokafka": "9.9", "no-such-thing": "1"}) == [
        "aiokafka 0.14.0",
        "no-such-thing not installed",
    ]
    monkeypatch.setattr(selftest, "PINNED", {"aiokafka": "0.13.0"})
    with pytest.raises(IncompatibleVersion, match=r"aiokafka 0\.14\.0.*pip install aiokafka==0\.13\.0"):
        check()
