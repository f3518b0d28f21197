"""Durable turns at their edges."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from rookery import AgentError, AgentManager, PauseAgent, Policy, RejectMessage, RetryTurn, Supervision
from rookery.agents import Agent, handler
from rookery.agents.errors import OutsideTurn
from rookery.ops.settings_rules import RECORD_OVERHEAD_BYTES
from rookery.schemas.cells import Place, Step, StepState, encode_cell, step_key
from rookery.schemas.envelope import Priority
from rookery.streams.core.ledger import Ledgers
from rookery.testing import Kit
from tests.unit.engine.harness import Cluster, addresses, virtual

CALLS: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def _fresh() -> None:
    CALLS.clear()


def call(name: str) -> int:
    CALLS[name] += 1
    return CALLS[name]


def cells(cluster: Cluster | Kit) -> list[bytes]:
    last = {r.key: r.value for journal in cluster.log.journals for r in journal if b"\x1f" in r.key}
    return [key for key, value in last.items() if value is not None]


class Sleeper(Agent):
    texts: list[str] = []  # noqa: RUF012 - state

    @handler("note")
    async def note(self, msg: dict[str, Any]) -> None:
        if msg.get("seconds"):
            await asyncio.sleep(msg["seconds"])
        self.texts.append(msg["text"])

    @handler("big")
    async def big(self, msg: dict[str, Any]) -> None:
        self.send("Sleeper/away", {"type": "note", "text": "y" * 30_000})


def batch_sizes(cluster: Cluster) -> list[int]:
    sizes: list[int] = []
    append = cluster.log.append_journal

    def counting(partition: int, epoch: int, records: Any, number: int | None) -> int | None:
        sizes.append(sum(len(key) + len(value or b"") for key, value in records))
        return append(partition, epoch, records, number)

    cluster.log.append_journal = counting  # type: ignore[method-assign]
    return sizes


@virtual
async def test_adoption_keeps_a_batch_within_its_bound() -> None:
    bound = 100_000
    async with Cluster(
        Sleeper, partitions=1, workers=1, adopt_after=1.0, batch_bytes_max=bound, message_bytes_max=90_000
    ) as cluster:
        sizes = batch_sizes(cluster)
        slow = addresses("Sleeper", 0, 30, partitions=1)
        for address in slow:
            cluster.post(address, {"type": "note", "text": "x" * 60_000, "seconds": 10})
        await asyncio.sleep(5)
        assert cluster.engine(0).statistics()["partitions"][0]["parked"] == 30
        assert max(sizes) <= bound
        await cluster.settle()
        assert cells(cluster) == []


class Newborn(Agent):
    texts: list[str] = []  # noqa: RUF012 - state

    async def on_spawn(self) -> None:
        await asyncio.sleep(5)
        self.texts.append("born")

    @handler("note")
    async def note(self, msg: dict[str, Any]) -> None:
        self.texts.append(msg["text"])


class StepBorn(Newborn):
    async def on_spawn(self) -> None:
        await self.step("s", call, "born")
        await asyncio.sleep(5)
        self.texts.append("born")


@pytest.mark.parametrize("kind", [Newborn, StepBorn])
@pytest.mark.parametrize("adopt_after", [1.0, 100.0])
@pytest.mark.parametrize("crash", [False, True])
def test_a_spawn_goes_before_what_overtook_it_in_its_lane(kind: type[Agent], adopt_after: float, crash: bool) -> None:
    @virtual
    async def scenario() -> None:
        async with Cluster(kind, partitions=1, adopt_after=adopt_after) as cluster:
            spawned, log = uuid.UUID(int=1, version=4).hex, cluster.log
            cluster.post(spawned, {"type": "note", "text": "early"})
            await asyncio.sleep(0.1)
            headers = [("content-type", b"application/json"), ("type", b"rookery.spawn")]
            record = (spawned.encode(), f'{{"type": "{kind.__name__}", "args": []}}'.encode())
            log.append(log.topics.inboxes[Priority.NORMAL], 0, [record], headers)
            await asyncio.sleep(0.5)
            cluster.post(spawned, {"type": "note", "text": "late"})
            await asyncio.sleep(3)
            assert not cluster.engine(0).failed.done()
            if crash:
                await cluster.kill(0)
                await cluster.assign([1], untold=[0])
            await cluster.settle()
            owner = cluster.owners[0]
            assert not cluster.engine(owner).failed.done()
            assert not cluster.dead_letters()
            assert cluster.state(spawned).texts == ["born", "early", "late"]
            assert cluster.engine(owner).committed(0, 1) == 3
            assert CALLS["born"] <= 1
            assert cells(cluster) == []
            assert cluster.engine(owner).statistics()["partitions"][0]["parked"] == 0

    scenario()


STRANGE: dict[str, Any] = {"delta": timedelta(seconds=30), "inf": float("inf"), "far": 1e30, "text": "x"}


class Later(Agent):
    supervision = Supervision(attempts=3, backoff=0.1)
    done: int = 0

    @handler("later")
    async def later(self, msg: dict[str, Any]) -> None:
        if self.attempt == 0:
            raise RetryTurn(after=STRANGE[msg["after"]])
        self.done += 1


@pytest.mark.parametrize("after", ["delta", "inf", "far", "text"])
def test_a_retry_after_what_is_no_time_fails_like_any_turn(after: str) -> None:
    @virtual
    async def scenario() -> None:
        async with Kit(Later) as kit, asyncio.timeout(1_000):
            await AgentManager().get_agent("Later/a").tell({"type": "later", "after": after})
            await kit.settle()
            assert AgentManager().get_agent("Later/a").done == 1

    scenario()


class Finally(Agent):
    @handler("go")
    async def go(self, msg: dict[str, Any]) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await self.step("release", call, "release")

    @handler("two")
    async def two(self, msg: dict[str, Any]) -> None:
        await self.step("first", call, "first")
        try:
            await asyncio.sleep(100)
        finally:
            await self.step("release", call, "release")


@pytest.mark.parametrize("kind", ["go", "two"])
def test_a_step_in_a_finally_of_a_lost_partition_hangs_nobody(kind: str) -> None:
    @virtual
    async def scenario() -> None:
        async with Cluster(Finally) as cluster:
            (address,) = addresses("Finally", 0, 1)
            cluster.post(address, {"type": kind})
            await asyncio.sleep(1)
            await cluster.assign([1, 1, 1, 1])
            await asyncio.sleep(10)
            assert CALLS["release"] == 0
            pool = cluster.engine(0).statistics()["pool"]
            assert pool["waiting"] == 0
            assert cluster.engine(0).is_settled
            await cluster.settle()

    scenario()


class Waking(Agent):
    n: int = 0

    async def on_activate(self) -> None:
        await self.step("wake", call, "wake")

    @handler("go")
    async def go(self, msg: dict[str, Any]) -> None:
        await self.step("go", call, "go")
        if self.attempt == 0:
            raise OSError("x")
        self.n += 1


@virtual
async def test_steps_in_on_activate_are_refused() -> None:
    async with Kit(Waking) as kit:
        await AgentManager().get_agent("Waking/a").tell({"type": "go"})
        await kit.settle()
        assert CALLS["wake"] == 0
        assert kit.dead_letters()[0].reason == OutsideTurn.reason


class Unencodable(Agent):
    @handler("go")
    async def go(self, msg: dict[str, Any]) -> None:
        await self.step("go", self.act)

    def act(self) -> Any:
        call("act")
        return object()


@virtual
async def test_a_step_whose_result_cant_travel_is_not_done_again() -> None:
    async with Kit(Unencodable) as kit:
        await AgentManager().get_agent("Unencodable/a").tell({"type": "go"})
        await kit.settle()
        assert CALLS["act"] == 1
        assert len(kit.dead_letters()) == 1


class Patient(Agent):
    @handler("go")
    async def go(self, msg: dict[str, Any]) -> Any:
        return await self.step("go", call, "p", attempts=2, backoff=60.0)


@virtual
async def test_a_step_may_wait_long_for_its_next_attempt() -> None:
    async with Kit(Patient):
        assert await AgentManager().get_agent("Patient/a").ask({"type": "go"}) == 1


class Nested(Agent):
    n: int = 0

    @handler("go")
    async def go(self, msg: dict[str, Any]) -> None:
        await self.step("outer", self.outer, msg["how"])
        await self.step("after", call, "after")
        if self.attempt == 0:
            raise OSError("x")
        self.n += 1

    async def outer(self, how: str) -> int:
        call("outer")
        if how == "send":
            self.send("Sleeper/x", {"type": "note", "text": "from a step"})
        elif how == "step":
            await self.step("inner", call, "inner")
        else:
            await self.ask("Sleeper/x", {"type": "note", "text": "from a step"})
        return 1


@pytest.mark.parametrize("how", ["send", "step", "ask"])
def test_effects_inside_a_step_are_refused(how: str) -> None:
    @virtual
    async def scenario() -> None:
        async with Kit(Nested, Sleeper) as kit:
            await AgentManager().get_agent("Nested/a").tell({"type": "go", "how": how})
            await kit.settle()
            assert "inside a step" in kit.dead_letters()[0].error
            assert CALLS["outer"] == 1

    scenario()


class SpawnGather(Agent):
    texts: list[str] = []  # noqa: RUF012 - state
    supervision = Supervision(attempts=3, backoff=0.5)

    async def on_spawn(self) -> None:
        async def boom() -> None:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if CALLS["boom"] < 1:
                call("boom")
                raise OSError("x")

        await asyncio.gather(self.step("a", call, "a"), boom())
        self.texts.append("born")

    @handler("note")
    async def note(self, msg: dict[str, Any]) -> None:
        self.texts.append(msg["text"])


@virtual
async def test_a_spawn_that_fails_while_its_step_is_written_is_spawned_anew() -> None:
    async with Kit(SpawnGather):
        manager = AgentManager()
        agent = await manager.spawn_agent(SpawnGather)
        assert manager.get_agent(agent).texts == ["born"]


class Begun(Agent):
    texts: list[str] = []  # noqa: RUF012 - state
    supervision = Supervision(attempts=2, backoff=0.1)

    @handler("go")
    async def go(self, msg: dict[str, Any]) -> None:
        await self.step("once", call, "once")
        if CALLS["go"] < 1:
            call("go")
            raise PauseAgent
        self.texts.append("go")

    @handler("note")
    async def note(self, msg: dict[str, Any]) -> None:
        self.texts.append(msg["text"])


@virtual
async def test_a_resume_waits_for_the_message_of_a_begun_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Cluster(Begun) as cluster:
        (address,) = addresses("Begun", 0, 1)
        # The batch of the pause has no room for the message; so there is a pause whose message is in the inbox only.
        monkeypatch.setattr(Ledgers, "adopt", lambda *args: None)
        cluster.post(address, {"type": "go"})
        await asyncio.sleep(1)
        await cluster.kill(0)
        monkeypatch.undo()
        cluster.post(address, {"type": "rookery.resume"}, priority=Priority.HIGH)
        cluster.post(address, {"type": "note", "text": "high"}, priority=Priority.HIGH)
        await cluster.assign([1, 1, 1, 1], untold=[0])
        await cluster.settle()
        assert CALLS["once"] == 1
        assert cluster.state(address).texts == ["go", "high"]
        assert cells(cluster) == []


class Stubborn(Agent):
    supervision = Supervision(attempts=2, backoff=0.1, exhausted=Policy.PAUSE)

    @handler("go")
    async def go(self, msg: dict[str, Any]) -> None:
        call("go")
        raise OSError("x")


@pytest.mark.parametrize("crash", [False, True])
def test_a_resumed_message_has_all_its_attempts_again(crash: bool) -> None:
    @virtual
    async def scenario() -> None:
        async with Cluster(Stubborn) as cluster:
            (address,) = addresses("Stubborn", 0, 1)
            cluster.post(address, {"type": "go"})
            await asyncio.sleep(5)
            assert CALLS["go"] == 2
            if crash:
                await cluster.kill(0)
                await cluster.assign([1, 1, 1, 1], untold=[0])
                await asyncio.sleep(1)
            cluster.post(address, {"type": "rookery.resume"}, priority=Priority.HIGH)
            await asyncio.sleep(5)
            assert CALLS["go"] == 4

    scenario()


@virtual
async def test_steps_without_a_message_leave_no_agent_that_is_never_quiet() -> None:
    async with Cluster(Sleeper, partitions=1) as cluster:
        cluster.post("Sleeper/a", {"type": "note", "text": "x"})
        await cluster.settle()
        await cluster.kill(0)
        key = step_key("Sleeper/a", Place(1, 0), 0)
        last = cluster.log.journals[0][-1]
        step = encode_cell(Step("step", "s", b"", StepState.DONE))
        cluster.log.journals[0].append(last._replace(offset=last.offset + 1, key=key, value=step))
        await cluster.assign([1], untold=[0])
        await cluster.settle(60)
        assert cells(cluster) == []
        assert cluster.engine(1).statistics()["partitions"][0]["live"] == 0


@virtual
async def test_a_refusal_keeps_its_place_among_what_the_journal_takes_over() -> None:
    async with Cluster(Sleeper, adopt_after=1.0, mailbox_max=3, outbox_ring=2, partitions=1) as cluster:
        (slow,) = addresses("Sleeper", 0, 1, partitions=1)
        (loud,) = [a for a in addresses("Sleeper", 0, 2, partitions=1) if a != slow]
        for n, seconds in enumerate([10, 10, 10]):
            cluster.post(slow, {"type": "note", "text": str(n), "seconds": seconds})
        await asyncio.sleep(4)
        assert cluster.engine(0).statistics()["partitions"][0]["parked"] == 3
        cluster.ports[0].cut_off = True
        for _ in range(2):
            cluster.post(loud, {"type": "big"})
            await asyncio.sleep(0.5)  # a slot each: then the ring is full
        cluster.post(slow, {"type": "note", "text": "refused"})  # by 3 that are parked
        await asyncio.sleep(17)
        cluster.post(slow, {"type": "note", "text": "later"})
        await asyncio.sleep(3)
        await cluster.kill(0)
        await cluster.assign([1], untold=[0])
        await cluster.settle()
        assert cluster.state(slow).texts == ["0", "1", "2"]
        assert [letter.reason for letter in cluster.dead_letters()] == ["overloaded"] * 2
        assert cluster.engine(1).committed(0, 1) == 9
        assert cells(cluster) == []


class Waker(Agent):
    supervision = Supervision(attempts=3, backoff=0.1)
    woken: int = 0
    n: int = 0

    async def on_activate(self) -> None:
        self.woken += 1
        self.send("Sleeper/log", {"type": "note", "text": "awake"})

    @handler("go")
    async def go(self, msg: dict[str, Any]) -> None:
        if self.attempt == 0:
            raise OSError("x")
        self.n += 1


@virtual
async def test_a_hook_goes_with_the_turn_that_failed_and_runs_again_with_the_next() -> None:
    async with Kit(Waker, Sleeper):
        waker = AgentManager().get_agent("Waker/a")
        for _ in range(2):
            await waker.tell({"type": "go"})
        assert (waker.n, waker.woken) == (2, 1)
        assert AgentManager().get_agent("Sleeper/log").texts == ["awake"]


class Torn(Agent):
    supervision = Supervision(attempts=3, backoff=20.0)
    n: int = 0

    @handler("busy")
    async def busy(self, msg: dict[str, Any]) -> None:
        await asyncio.sleep(10)

    @handler("go")
    async def go(self, msg: dict[str, Any]) -> None:
        await asyncio.gather(self.count(), self.boom())

    async def count(self) -> None:
        await self.step("slow", asyncio.sleep, 1)
        CALLS["went on"] += 1
        self.n += 1

    async def boom(self) -> None:
        await asyncio.sleep(3)
        if self.attempt == 0:
            raise OSError("x")


@virtual
async def test_a_branch_that_waits_for_a_slot_ends_with_its_turn() -> None:
    async with Kit(Torn, concurrency_max=1) as kit:
        torn, busy = AgentManager().get_agent("Torn/a"), AgentManager().get_agent("Torn/busy")
        await asyncio.gather(torn.tell({"type": "go"}), busy.tell({"type": "busy"}))
        await kit.settle()
        assert (torn.n, CALLS["went on"]) == (1, 1)
        assert kit.statistics()[0]["pool"]["waiting"] == 0


class NoReason(RejectMessage):
    reason = None  # type: ignore[assignment]


class NoTime(Exception):
    @property
    def after(self) -> float:
        raise ZeroDivisionError


class Faulty(Agent):
    supervision = Supervision(attempts=2, backoff=0.1)

    @handler("go")
    async def go(self, msg: dict[str, Any]) -> None:
        raise NoReason if msg["error"] == "reason" else NoTime


@pytest.mark.parametrize("error", ["reason", "after"])
def test_an_error_that_fails_itself_ends_no_worker(error: str) -> None:
    @virtual
    async def scenario() -> None:
        async with Kit(Faulty) as kit, asyncio.timeout(100):
            with pytest.raises(AgentError):
                await AgentManager().get_agent("Faulty/a").ask({"type": "go", "error": error})
            assert len(kit.dead_letters()) == 1

    scenario()


class Many(Agent):
    text: str = ""

    @handler("go")
    async def go(self, msg: dict[str, Any]) -> None:
        for i in range(msg["steps"]):
            await self.step(f"s{i}", call, "s")
        self.text = "x" * 5_000


@virtual
async def test_the_deletion_of_many_steps_stays_in_the_margin_of_a_batch() -> None:
    async with Cluster(Many, partitions=1, workers=1, batch_bytes_max=10_000, message_bytes_max=5_000) as cluster:
        sizes = batch_sizes(cluster)
        long = "Many/" + "k" * 200
        cluster.post(long, {"type": "go", "steps": 200})
        await cluster.settle()
        assert [letter.error for letter in cluster.dead_letters()] == []
        assert len(cluster.state(long).text) == 5_000
        assert max(sizes) <= 10_000 + RECORD_OVERHEAD_BYTES
        cluster.post(long, {"type": "go", "steps": 300})
        await cluster.settle()
        assert {letter.reason for letter in cluster.dead_letters()} == {"outside-turn"}
        assert cells(cluster) == []
