"""What surrounds the flights' main job, without servers: when it is over, what it says, which runs it cleans up."""

import asyncio
import json
from collections.abc import Iterable, Mapping
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from examples.flights import conductor, data, job
from examples.flights.expected import Verdict, totals
from examples.flights.fleet import Fleet
from examples.flights.job import Job, Stalled
from examples.flights.runs import Runs
from examples.flights.view import Progress, View, line
from rookery import Client, Priority

LIMIT = 30


class FakeClient:
    """An application that has handled `handled` messages, and whose agents are in these states."""

    def __init__(self, handled: int, states: Mapping[str, Mapping[str, Any]]) -> None:
        self.asked = self.told = 0
        self._handled = handled
        self._states = states

    async def tell_many(self, messages: Iterable[object]) -> int:
        self.told = len(list(messages))
        return self.told

    async def handled(self) -> int:
        return self._handled + self.asked

    async def backlog(self) -> dict[Priority, int]:
        return dict.fromkeys(Priority, 0)

    def get_agent(self, address: str) -> Any:
        async def state(timeout: float | None) -> Mapping[str, Any]:
            self.asked += 1
            return self._states[address]

        return SimpleNamespace(state=state)


def verdict_of(client: FakeClient, fleet: Fleet | None, *, feed: bool = True) -> Verdict:
    progress = Progress("flights-test", LIMIT)
    view = View(progress, Console(file=StringIO()))
    return asyncio.run(Job(cast("Client", client), fleet, progress, view, LIMIT).run(feed=feed))


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet("flights-test", 2, "127.0.0.1:1", tmp_path)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "POLL_SECONDS", 0.001)


@pytest.fixture
def right() -> dict[str, dict[str, Any]]:
    return totals(data.departures(LIMIT))


def test_a_job_whose_agents_are_right_is_ok(fleet: Fleet, right: dict[str, Any]) -> None:
    verdict = verdict_of(FakeClient(3 * LIMIT, right), fleet)
    assert (verdict.ok, verdict.turns) == (True, 3 * LIMIT)


def test_agents_that_were_fed_before_are_only_checked(right: dict[str, Any]) -> None:
    client = FakeClient(3 * LIMIT, right)
    assert verdict_of(client, None, feed=False).ok
    assert client.told == 0
    assert verdict_of(client, None).ok
    assert client.told == LIMIT


def test_what_never_comes_is_waited_for_a_while_then_named(
    fleet: Fleet, right: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "QUIET_SECONDS", 0.01)
    right["Carrier/UA"]["legs"] -= 1
    verdict = verdict_of(FakeClient(3 * LIMIT - 1, right), fleet)
    assert (verdict.lost, verdict.doubled, len(verdict.differences)) == (1, 0, 1)


def test_a_job_that_stands_still_says_where(
    fleet: Fleet, right: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "STALL_SECONDS", 0.01)
    with pytest.raises(Stalled, match=r"30 of 30 sent, 5 turns, backlog 0, 0 workers alive"):
        verdict_of(FakeClient(5, right), fleet)


def test_the_last_line_is_the_result(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    assert conductor._report(Verdict(turns=1_010_328), 40.0, fleet) == 0
    assert capsys.readouterr().out == "OK 1010328 turns in 40.0 s, 25258/s, 0 lost, 0 doubled\n"
    wrong = Verdict(90, 2, 1, [f"Plane/{number}: legs 1, expected 2" for number in range(25)])
    assert conductor._report(wrong, 2.0, fleet) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[19:] == [
        "Plane/19: legs 1, expected 2",
        "... and 5 more agents",
        "FAILED 90 turns in 2.0 s, 45/s, 2 lost, 1 doubled",
    ]


def test_only_runs_that_are_over_on_this_broker_are_cleaned_up(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    alive, elsewhere = runs.start("here:1"), runs.start("there:1")
    for app_id, broker in (("flights-old", "here:1"), ("flights-far", "there:1")):
        content = {"broker": broker, "owner": {"pid": 2**22 + 1, "started": 0.0}}
        (tmp_path / f"{app_id}.json").write_text(json.dumps(content))
    (tmp_path / "flights-half.json").write_text("{")
    assert alive != elsewhere
    assert runs.ended("here:1") == ["flights-old"]
    runs.forget("flights-old")
    assert runs.ended("here:1") == []


def test_progress_reads_well_without_a_terminal() -> None:
    progress = Progress("flights-test", 336_776, doing="feeding", sent=1_000, turns=2_500, rate=1_234.5)
    progress.backlog = {Priority.HIGH: 1, Priority.NORMAL: 2_000, Priority.LOW: 3}
    assert line(progress).endswith(
        "feeding: 1,000 of 336,776 sent, 2,500 turns, 1,234/s, backlog 1 HIGH, 2,000 NORMAL, 3 LOW"
    )


def test_a_terminal_sees_a_table_with_the_worst_planes() -> None:
    progress = Progress("flights-test", 336_776)
    progress.worst = {
        "Plane/N1": {"worst": 500, "minutes_late": 700, "legs": 3, "cancelled": 0, "destination": "HNL"},
        "Plane/N2": {"worst": None, "minutes_late": 0, "legs": 1, "cancelled": 1, "destination": "BOS"},
    }
    console = Console(file=StringIO(), force_terminal=True, width=120, height=50)
    with View(progress, console) as view:
        view.show()
    output = cast("StringIO", console.file).getvalue()
    assert output.index("N1") < output.index("N2")
    assert "HNL" in output
