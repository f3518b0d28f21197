"""The bank of examples/fencing refuses older tokens in SQL; the whole example on real servers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.fencing import run
from examples.fencing.bank import Bank
from rookery import StaleFence


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    made = Bank(tmp_path / "bank.db")
    made.open("anna", 1_000)
    yield made
    made.close()


def test_an_older_token_neither_reads_nor_writes(bank: Bank) -> None:
    assert bank.cents("anna", 7) == 1_000
    bank.set_cents("anna", 1_100, 7)
    with pytest.raises(StaleFence, match="token 6 is refused, 7 was seen"):
        bank.set_cents("anna", 0, 6)
    with pytest.raises(StaleFence):
        bank.cents("anna", 6)
    assert bank.total() == 1_100


def test_a_read_alone_shuts_earlier_holders_out(bank: Bank) -> None:
    """Else the earlier one would write between the later one's read and write, and be overwritten unseen."""
    bank.cents("anna", 6)
    balance = bank.cents("anna", 7)
    with pytest.raises(StaleFence):
        bank.set_cents("anna", 1_100, 6)
    bank.set_cents("anna", balance + 200, 7)
    assert bank.total() == 1_200


@pytest.mark.kafka
@pytest.mark.slow
def test_the_frozen_teller_is_refused(
    broker: str, redis_url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROOKERY_BROKER", broker)
    monkeypatch.setenv("ROOKERY_REDIS_URL", redis_url)
    asyncio.run(run.main())
    lines = capfd.readouterr().out.splitlines()
    # On a slow machine the frozen one may notice by itself, and a little earlier, that its lock is gone.
    first, second = sorted(lines[:2])
    lost = r"teller 1: (refused: lock account/anna: token \d+ is refused|cancelled: lock account/anna is lost)"
    assert re.match(lost, first), lines
    assert re.match(r"teller 2: deposited 200 with token \d+$", second), lines
    assert re.match(r"teller 1: deposited 100 with token \d+$", lines[2]), lines
    assert lines[3] == "balance: 1300"
