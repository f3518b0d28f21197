"""The test kit: virtual time that costs nothing, quiet that means quiet, and the marker that binds a kit."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest

from rookery import Agent, AgentError, AgentManager, AskTimeout, NotBound, handler
from rookery.streams.nats.errors import InvalidSubject
from rookery.testing import EPOCH_NS, Kit, VirtualTimeLoop, run


class Relay(Agent):
    """Passes a message on, a while later."""

    seen: int = 0
    ids: ClassVar[list[str]] = []

    @handler("pass")
    async def pass_on(self, msg: dict[str, Any]) -> int:
        await asyncio.sleep(msg.get("seconds", 0))
        self.seen += 1
        Relay.ids.append(self.message.id)
        if msg["hops"]:
            self.send(f"Relay/{msg['hops']}", {**msg, "hops": msg["hops"] - 1})
        return self.seen


@pytest.fixture(autouse=True)
def _no_ids() -> None:
    Relay.ids = []


def test_sleeping_takes_no_time_and_moves_the_clock() -> None:
    async def main() -> None:
        assert isinstance(asyncio.get_running_loop(), VirtualTimeLoop)
        async with Kit(Relay) as kit:
            before = kit.now_ns()
            await asyncio.sleep(900)
            assert kit.now_ns() - before == pytest.approx(900e9, rel=1e-9)
            assert before > EPOCH_NS

    began = time.perf_counter()
    run(main())
    assert time.perf_counter() - began < 90


def test_timers_fire_in_order_and_at_their_time() -> None:
    async def main() -> list[tuple[float, str]]:
        loop, fired = asyncio.get_running_loop(), list[tuple[float, str]]()

        async def after(seconds: float, name: str) -> None:
            await asyncio.sleep(seconds)
            fired.append((round(loop.time(), 6), name))

        await asyncio.gather(after(30, "c"), after(1, "a"), after(2.5, "b"))
        return fired

    assert run(main()) == [(1.0, "a"), (2.5, "b"), (30.0, "c")]


def test_threads_still_work_on_virtual_time() -> None:
    async def main() -> str:
        return await asyncio.to_thread(lambda: "from a thread")

    assert run(main()) == "from a thread"


def test_waiting_for_what_nothing_will_do_is_said_and_does_not_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rookery.testing.STUCK_SECONDS", 0.01)

    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="nothing will ever do"):
        run(main())


def test_a_tell_returns_when_all_that_it_caused_is_handled() -> None:
    async def main() -> None:
        async with Kit(Relay, workers=2) as kit:
            await kit.manager.get_agent("Relay/start").tell({"type": "pass", "hops": 5, "seconds": 60})
            assert [kit.manager.get_agent(f"Relay/{i}").seen for i in (5, 4, 3, 2, 1)] == [1] * 5
            assert asyncio.get_running_loop().time() >= 360

    run(main())


def test_agents_that_write_to_each_other_for_ever_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rookery.testing.SETTLE_SECONDS_MAX", 100.0)

    class Echo(Agent):
        @handler("ball")
        async def ball(self, msg: dict[str, Any]) -> None:
            await asyncio.sleep(1)
            self.send(self.id, msg)

    async def main() -> None:
        async with Kit(Echo) as kit:
            with pytest.raises(TimeoutError):
                await kit.manager.get_agent("Echo/a").tell({"type": "ball"})

    run(main())


def test_two_runs_are_the_same_to_the_id() -> None:
    async def main() -> list[str]:
        Relay.ids = []
        async with Kit(Relay, workers=2) as kit:
            spawned = await kit.manager.spawn_agent(Relay)
            for i in range(20):
                await kit.manager.get_agent(f"Relay/{i}").tell({"type": "pass", "hops": i % 4})
            return [spawned, *Relay.ids]

    first = run(main())
    assert len(first) > 40
    assert run(main()) == first


def test_an_ask_that_takes_longer_than_its_timeout_leaves_the_outcome_open() -> None:
    async def main() -> None:
        async with Kit(Relay) as kit:
            relay = kit.manager.get_agent("Relay/a")
            with pytest.raises(AskTimeout, match="outcome is unknown"):
                await relay.ask({"type": "pass", "hops": 0, "seconds": 60}, timeout=5)
            assert asyncio.get_running_loop().time() < 6
            await kit.settle()
            assert relay.seen == 1

    run(main())


def test_a_kit_is_bound_inside_and_nowhere_else() -> None:
    async def main() -> None:
        with pytest.raises(NotBound):
            AgentManager()
        async with Kit() as outer:
            async with Kit(partitions=1) as inner:
                await AgentManager().spawn_agent(Relay)
                assert inner.registry.names() == ("Relay",)
            assert outer.registry.names() == ()
        with pytest.raises(NotBound):
            AgentManager()

    run(main())


def test_settings_are_those_of_an_application_and_checked_like_them() -> None:
    async def main() -> None:
        async with Kit(spawn_wait=1.5, partitions=3) as kit:
            assert (kit.settings.spawn_wait, kit.settings.partitions) == (1.5, 3)

    run(main())
    with pytest.raises(Exception, match="window_max"):
        Kit(window_max=1)


def test_nothing_is_left_running() -> None:
    async def main() -> None:
        async with Kit(Relay) as kit:
            kit.log.append("kit.inbox.normal", 0, [(b"x", b"garbage")])
            turn = asyncio.create_task(
                kit.manager.get_agent("Relay/a").tell({"type": "pass", "hops": 0, "seconds": 90})
            )
            await asyncio.sleep(1)
            turn.cancel()
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main())


class Herald(Agent):
    """Writes to NATS."""

    @handler("news")
    async def news(self, msg: dict[str, Any]) -> None:
        for number in range(msg["count"]):
            await self.send(f"nats/{msg['subject']}", {"type": "News", "number": number})

    @handler("consult")
    async def consult(self, msg: dict[str, Any]) -> Any:
        return await self.ask("nats/prices", {"article": 7}, 5.0)


@pytest.mark.rookery
async def test_what_agents_write_to_nats_can_be_looked_at(kit: Kit) -> None:
    herald = kit.manager.get_agent("Herald/a")
    kit.register(Herald)
    assert kit.nats_published() == []
    for subject in ("orders.new", "orders.old"):
        await herald.tell({"type": "news", "subject": subject, "count": 3})
    await kit.manager.get_agent("nats/orders.test").tell({"type": "News", "number": 7})
    found = kit.nats_published()
    numbers = {
        subject: [json.loads(p.payload)["number"] for p in found if p.subject == subject]
        for subject in ("orders.new", "orders.old", "orders.test")
    }
    assert numbers == {"orders.new": [0, 1, 2], "orders.old": [0, 1, 2], "orders.test": [7]}
    news = next(published for published in found if published.subject == "orders.new")
    assert (news.headers["type"], news.headers["sender"]) == ("News", "Herald/a")
    assert len({published.headers["Nats-Msg-Id"] for published in found}) == 7
    assert kit.dead_letters() == []


@pytest.mark.rookery
async def test_an_ask_at_nats_is_seen_and_not_answered(kit: Kit) -> None:
    kit.register(Herald)
    with pytest.raises(AgentError, match="no reply from nats/prices"):
        await kit.manager.get_agent("Herald/a").ask({"type": "consult"}, timeout=60)
    assert {(asked.subject, asked.payload) for asked in kit.nats_published()} == {("prices", b'{"article":7}')}


@pytest.mark.rookery
async def test_a_subject_that_no_edge_could_publish_to_is_said(kit: Kit) -> None:
    kit.register(Herald)
    await kit.manager.get_agent("Herald/a").tell({"type": "news", "subject": "a..b", "count": 1})
    with pytest.raises(InvalidSubject, match="empty part"):
        kit.nats_published()


def test_without_nats_out_a_message_to_nats_is_a_dead_letter() -> None:
    async def main() -> None:
        async with Kit(Herald, nats_out=False) as kit:
            await kit.manager.get_agent("Herald/a").tell({"type": "news", "subject": "x", "count": 1})
            assert [letter.reason for letter in kit.dead_letters()] == ["unknown-agent-type"]
            assert kit.nats_published() == []

    run(main())


MARKED = """
import asyncio
import pytest
from rookery import Agent, AgentManager, handler
from rookery.testing import Kit

class Counter(Agent):
    count: int = 0

    @handler("add")
    async def add(self, msg: dict) -> int:
        self.count += 1
        return self.count

@pytest.fixture
def name():
    return "Counter/a"

@pytest.mark.rookery
async def test_bound(name):
    counter = AgentManager().get_agent(name)
    await AgentManager().spawn_agent(Counter)
    await asyncio.sleep(60)
    assert await counter.ask({"type": "add"}) == 1

@pytest.mark.rookery
async def test_each_has_a_kit_of_its_own(name):
    await AgentManager().spawn_agent(Counter)
    assert await AgentManager().get_agent(name).ask({"type": "add"}) == 1

@pytest.mark.rookery
async def test_the_fixture_is_the_kit_it_runs_with(kit):
    await AgentManager().spawn_agent(Counter)
    assert kit.registry.names() == ("Counter",)

class TestOwn:
    @pytest.fixture
    def kit(self):
        return Kit(Counter, partitions=2)

    @pytest.mark.rookery
    async def test_a_fixture_of_ones_own_decides(self, kit):
        assert kit.settings.partitions == 2
        assert await AgentManager().get_agent("Counter/a").ask({"type": "add"}) == 1

@pytest.mark.rookery
async def test_red():
    assert not "it really runs"

@pytest.mark.rookery
def test_sync_tests_stay_as_they_are():
    pass
"""


class Outcomes:
    """A pytest plugin that remembers how each test ended."""

    def __init__(self) -> None:
        self.of: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            self.of[report.location[2]] = report.outcome


def test_the_marker_runs_async_tests_with_fixtures_on_virtual_time(tmp_path: Path) -> None:
    (tmp_path / "test_marked.py").write_text(MARKED)
    (tmp_path / "pytest.ini").write_text("[pytest]")
    outcomes = Outcomes()
    options = ["-p", "rookery.testing", "-p", "no:asyncio", "-p", "no:cacheprovider", "--strict-markers", "-q"]
    pytest.main([*options, f"--rootdir={tmp_path}", "-c", str(tmp_path / "pytest.ini"), str(tmp_path)], [outcomes])
    assert outcomes.of == {
        "test_bound": "passed",
        "test_each_has_a_kit_of_its_own": "passed",
        "test_the_fixture_is_the_kit_it_runs_with": "passed",
        "TestOwn.test_a_fixture_of_ones_own_decides": "passed",
        "test_red": "failed",
        "test_sync_tests_stay_as_they_are": "passed",
    }
