"""What becomes of failed turns: back-off in order, skip, dead letter, pause; and nobody else waits."""

from __future__ import annotations

import asyncio
import itertools
import sys
from dataclasses import dataclass
from typing import ClassVar

import pytest

from rookery import (
    AgentError,
    AgentManager,
    PauseAgent,
    Policy,
    RejectMessage,
    RetryTurn,
    SkipMessage,
    Supervision,
)
from rookery.agents import Agent, handler
from rookery.schemas.envelope import Priority
from rookery.testing import Kit
from tests.unit.engine.harness import Cluster, addresses, virtual


@dataclass
class Do:
    text: str
    error: str = ""
    times: int = 1_000_000  # so many turns fail


ERRORS = {
    "retry": RetryTurn("later", after=7.0),
    "skip": SkipMessage("not for me"),
    "reject": RejectMessage("nonsense"),
    "pause": PauseAgent("need a person"),
    "io": OSError("no network"),
    "key": KeyError("x"),
    "exit": SystemExit(3),
    "bug": ZeroDivisionError("oops"),
}


class Doer(Agent):
    supervision = Supervision(
        attempts=4,
        backoff=1.0,
        backoff_max=3.0,
        jitter=0.0,
        timeout=50.0,
        policies={KeyError: Policy.SKIP, ZeroDivisionError: Policy.PAUSE},
    )
    texts: list[str] = []  # noqa: RUF012 - state
    tried: ClassVar[list[tuple[str, float, int]]] = []
    mended: ClassVar[bool] = False

    @handler
    async def do(self, msg: Do) -> str:
        Doer.tried.append((msg.text, asyncio.get_running_loop().time(), self.attempt))
        self.texts.append(msg.text)
        if msg.error == "sleep":
            await asyncio.sleep(1_000)
        if msg.error == "sys":
            sys.exit("bye")
        if msg.error and not Doer.mended and self.attempt < msg.times:
            raise ERRORS[msg.error]
        return msg.text

    @classmethod
    def times(cls, text: str) -> list[float]:
        return [time for name, time, _ in cls.tried if name == text]


@pytest.fixture(autouse=True)
def _fresh() -> None:
    Doer.tried.clear()
    Doer.mended = False


@virtual
async def test_a_failed_turn_is_tried_again_after_a_growing_back_off_and_order_is_kept() -> None:
    async with Kit(Doer) as kit:
        doer = AgentManager().get_agent("Doer/a")
        await asyncio.gather(doer.tell(Do("a", "io", times=3)), doer.tell(Do("b")), doer.tell(Do("c")))
        assert doer.texts == ["a", "b", "c"]
        times = Doer.times("a")
        assert [round(later - earlier) for earlier, later in itertools.pairwise(times)] == [1, 2, 3]
        assert [attempt for name, _, attempt in Doer.tried if name == "a"] == [0, 1, 2, 3]
        assert not kit.dead_letters()
        assert kit.statistics()[0]["failures"]["retries"] == 3


@virtual
async def test_the_last_attempt_leaves_a_dead_letter_and_tells_who_asked() -> None:
    async with Kit(Doer) as kit:
        doer = AgentManager().get_agent("Doer/a")
        with pytest.raises(AgentError, match="no network"):
            await doer.ask(Do("a", "io"))
        (letter,) = kit.dead_letters()
        assert (letter.reason, letter.attempts) == ("handler-failed", 4)
        assert "OSError: no network" in letter.traceback
        assert doer.texts == []


@virtual
async def test_errors_say_what_is_to_be_done() -> None:
    async with Kit(Doer) as kit:
        doer = AgentManager().get_agent("Doer/a")
        await doer.tell(Do("a", "retry", times=1))
        first, second = Doer.times("a")
        assert second - first == pytest.approx(7.0, abs=0.1)
        with pytest.raises(AgentError, match="not for me"):
            await doer.ask(Do("b", "skip"))
        await doer.tell(Do("c", "key"))
        assert kit.statistics()[0]["failures"]["skipped"] == 2
        assert not kit.dead_letters()
        await doer.tell(Do("d", "reject"))
        (letter,) = kit.dead_letters()
        assert (letter.reason, letter.attempts) == ("rejected", 1)
        assert doer.texts == ["a"]


@virtual
async def test_a_handler_that_takes_too_long_or_wants_to_end_the_process_fails() -> None:
    async with Kit(Doer) as kit:
        doer = AgentManager().get_agent("Doer/a")
        await doer.tell(Do("a", "sleep"))
        await doer.tell(Do("b", "sys"))
        await doer.tell(Do("c"))
        assert [letter.reason for letter in kit.dead_letters()] == ["handler-timeout", "handler-failed"]
        times = Doer.times("a")
        assert times[1] - times[0] == pytest.approx(51.0, abs=0.1)
        assert doer.texts == ["c"]


@virtual
async def test_others_on_the_partition_do_not_wait_for_one_that_is_held() -> None:
    async with Cluster(Doer) as cluster:
        bad, good = addresses("Doer", 0, 2)
        cluster.post(bad, Do("poison", "io"))
        await asyncio.sleep(0.5)
        cluster.post(good, Do("quick"))
        await asyncio.sleep(0.1)
        assert cluster.state(good).texts == ["quick"]
        assert len(Doer.times("poison")) == 1
        await cluster.settle()
        assert len(cluster.dead_letters()) == 1


@virtual
async def test_a_paused_agent_waits_in_the_journal_over_a_crash_and_goes_on_in_order() -> None:
    async with Cluster(Doer) as cluster:
        (address,) = addresses("Doer", 0, 1)
        cluster.post(address, Do("a", "bug"))
        await asyncio.sleep(0.5)
        for text in "bc":
            cluster.post(address, Do(text))
        cluster.post(address, Do("high"), priority=Priority.HIGH)
        await cluster.settle()
        assert cluster.engine(0).committed(0, 1) == 3  # the prefix has moved on
        await cluster.kill(0)
        await cluster.assign([1, 1, 1, 1], untold=[0])
        cluster.post(address, Do("d"))
        await cluster.settle()
        assert cluster.state(address).texts == []
        assert Doer.times("a") == Doer.times("a")[:1]
        Doer.mended = True
        cluster.post(address, {"type": "rookery.resume"}, priority=Priority.HIGH)
        await cluster.settle()
        texts = cluster.state(address).texts
        assert [text for text in texts if text != "high"] == ["a", "b", "c", "d"]
        assert "high" in texts
        assert cluster.engine(1).statistics()["partitions"][0]["parked"] == 0
        assert not cluster.dead_letters()


@virtual
async def test_an_operator_pauses_and_resumes_an_agent() -> None:
    async with Kit(Doer) as kit:
        manager = AgentManager()
        doer = manager.get_agent("Doer/a")
        await manager.pause_agent("Doer/a")
        await doer.tell(Do("a"))
        assert doer.texts == []
        await manager.resume_agent("Doer/a")
        assert doer.texts == ["a"]
        await manager.resume_agent("Doer/a")  # again is fine
        assert kit.statistics()[0]["partitions"][0]["parked"] == 0


@pytest.mark.parametrize("crash", [False, True])
def test_a_resume_that_comes_while_its_pause_still_waits_ends_it_all_the_same(crash: bool) -> None:
    """The agent is busy: the pause waits for its turn, and the resume behind it must not be held by it for ever."""

    @virtual
    async def scenario() -> None:
        async with Cluster(Doer, adopt_after=0.5) as cluster:
            (address,) = addresses("Doer", 0, 1)
            cluster.post(address, Do("slow", "sleep"))
            await asyncio.sleep(0.5)
            cluster.post(address, {"type": "rookery.pause"}, priority=Priority.HIGH)
            await asyncio.sleep(2)
            cluster.post(address, {"type": "rookery.resume"}, priority=Priority.HIGH)
            cluster.post(address, Do("after"))
            await asyncio.sleep(2)  # all of it is parked by now
            Doer.mended = True
            if crash:
                await cluster.kill(0)
                await cluster.assign([1, 1, 1, 1], untold=[0])
            await cluster.settle()
            cluster.post(address, Do("later"))
            await cluster.settle()
            assert cluster.state(address).texts == ["after", "later"]
            cluster.post(address, {"type": "rookery.pause"}, priority=Priority.HIGH)
            await cluster.settle()
            cluster.post(address, Do("held"))
            await cluster.settle()
            assert cluster.state(address).texts == ["after", "later"], "a resume that is through ends no later pause"

    scenario()


@virtual
async def test_attempts_are_counted_over_a_crash_and_the_back_off_is_kept() -> None:
    async with Cluster(Doer, adopt_after=0.5) as cluster:
        (address,) = addresses("Doer", 0, 1)
        cluster.post(address, Do("a", "io"))
        await asyncio.sleep(3.5)  # attempts at 0, 1 and 3 s; the next is due at 6 s
        assert len(Doer.times("a")) == 3
        await cluster.kill(0)
        await cluster.assign([1, 1, 1, 1], untold=[0])
        await cluster.settle()
        assert len(Doer.times("a")) == 4
        assert Doer.times("a")[3] == pytest.approx(6.0, abs=0.3)
        (letter,) = cluster.dead_letters()
        assert letter.attempts == 4
        assert letter.offset == 0


@virtual
async def test_a_worker_with_a_wrong_clock_puts_nothing_off_for_the_next_owner() -> None:
    async with Cluster(Doer, adopt_after=0.5) as cluster:
        (address,) = addresses("Doer", 0, 1)
        cluster.clocks[0] = 3600
        cluster.post(address, Do("a", "io"))
        await asyncio.sleep(3.5)  # attempts at 0, 1 and 3 s; the next is due 3 s after, an hour later by the cell
        await cluster.kill(0)
        await cluster.assign([1, 1, 1, 1], untold=[0])
        await cluster.settle()
        assert Doer.times("a")[3] == pytest.approx(6.5, abs=0.3)
