"""Durable steps and asks in a turn: done once, whatever crashes, fails or is tried again."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from rookery import AgentError, AgentManager, AskCycle, AskTimeout, RetryTurn, StepFailed, Supervision, idempotency_key
from rookery.agents import Agent, handler
from rookery.schemas.errors import BatchTooLarge
from rookery.testing import Kit
from tests.unit.engine.harness import Cluster, addresses, virtual


@dataclass
class Work:
    steps: int = 3
    fail_turns: int = 0


class World:
    """What happens outside: counts calls, and may fail them."""

    calls: ClassVar[Counter[str]] = Counter()
    keys: ClassVar[dict[str, set[str]]] = {}
    failing: ClassVar[Counter[str]] = Counter()  # so many calls of a name fail

    @classmethod
    def reset(cls) -> None:
        cls.calls.clear()
        cls.keys.clear()
        cls.failing.clear()

    @classmethod
    async def call(cls, name: str) -> str:
        cls.calls[name] += 1
        cls.keys.setdefault(name, set()).add(idempotency_key())
        await asyncio.sleep(0.1)
        if cls.failing[name]:
            cls.failing[name] -= 1
            raise ConnectionError(f"{name} is down")
        return f"{name}!"


@pytest.fixture(autouse=True)
def _fresh_world() -> None:
    World.reset()


class Worker(Agent):
    done: list[str] = []  # noqa: RUF012 - state
    turns: ClassVar[int] = 0

    @handler
    async def work(self, msg: Work) -> list[str]:
        Worker.turns += 1
        results = [await self.step(f"s{i}", World.call, f"{self.id}-{i}") for i in range(msg.steps)]
        self.done += results
        if self.attempt < msg.fail_turns:
            raise RuntimeError("not yet")
        self.send("Ledger/all", {"type": "note", "text": self.id})
        return results

    @handler("parallel")
    async def parallel(self, msg: dict[str, Any]) -> list[str]:
        return list(await asyncio.gather(*(self.step(f"p{i}", World.call, f"p{i}") for i in range(msg["n"]))))

    @handler("patient")
    async def patient(self, msg: dict[str, Any]) -> str:
        return await self.step("call", World.call, "x", attempts=3, backoff=1.0)

    @handler("careful")
    async def careful(self, msg: dict[str, Any]) -> str:
        try:
            return await self.step("call", World.call, "y")
        except StepFailed as error:
            return f"{error.error}: {error.text}"

    @handler("fickle")
    async def fickle(self, msg: dict[str, Any]) -> None:
        await self.step("one" if self.attempt == 0 else "another", World.call, "z")
        raise RetryTurn

    @handler("huge")
    async def huge(self, msg: dict[str, Any]) -> int:
        return len(await self.step("huge", lambda: "x" * 950_000))


class Ledger(Agent):
    texts: list[str] = []  # noqa: RUF012 - state

    @handler("note")
    async def note(self, msg: dict[str, Any]) -> None:
        self.texts.append(msg["text"])


class Asker(Agent):
    answers: list[Any] = []  # noqa: RUF012 - state
    supervision = Supervision(attempts=2)

    @handler("ask")
    async def ask_somebody(self, msg: dict[str, Any]) -> Any:
        answer = await self.ask(msg["whom"], {"type": msg["what"], "n": msg.get("n", 0)}, msg.get("timeout", 30.0))
        self.answers.append(answer)
        return answer

    @handler("relay")
    async def relay(self, msg: dict[str, Any]) -> Any:
        return await self.ask("Asker/first", {"type": "ask", "whom": "Oracle/x", "what": "double", "n": 2})


class Oracle(Agent):
    asked: int = 0
    seen: ClassVar[list[int]] = []

    @handler("double")
    async def double(self, msg: dict[str, Any]) -> Any:
        self.asked += 1
        Oracle.seen.append(msg["n"])
        return msg["n"] * 2

    @handler("slow")
    async def slow(self, msg: dict[str, Any]) -> int:
        self.asked += 1
        await asyncio.sleep(100)
        return 1

    @handler("broken")
    async def broken(self, msg: dict[str, Any]) -> int:
        raise LookupError("no idea")

    supervision = Supervision(attempts=1)


@virtual
async def test_finished_steps_are_not_run_again_when_the_turn_is() -> None:
    async with Kit(Worker, Ledger):
        worker = AgentManager().get_agent("Worker/a")
        assert await worker.ask(Work(3, fail_turns=2)) == ["Worker/a-0!", "Worker/a-1!", "Worker/a-2!"]
        assert set(World.calls.values()) == {1}
        assert worker.done == ["Worker/a-0!", "Worker/a-1!", "Worker/a-2!"]
        assert AgentManager().get_agent("Ledger/all").texts == ["Worker/a"]


@virtual
async def test_a_failed_step_runs_again_with_the_next_attempt_and_under_the_same_key() -> None:
    World.failing["Worker/a-1"] = 2
    async with Kit(Worker, Ledger) as kit:
        await AgentManager().get_agent("Worker/a").ask(Work(3))
        assert World.calls == {"Worker/a-0": 1, "Worker/a-1": 3, "Worker/a-2": 1}
        assert [len(keys) for keys in World.keys.values()] == [1, 1, 1]
        assert len(set.union(*World.keys.values())) == 3
        assert kit.statistics()[0]["failures"]["retries"] == 2
        assert not kit.dead_letters()


@virtual
async def test_a_step_has_attempts_of_its_own() -> None:
    World.failing["x"] = 2
    async with Kit(Worker) as kit:
        started = asyncio.get_running_loop().time()
        assert await AgentManager().get_agent("Worker/a").ask({"type": "patient"}) == "x!"
        assert asyncio.get_running_loop().time() - started >= 1.0 + 2.0 - 0.6
        assert World.calls["x"] == 3
        assert kit.statistics()[0]["failures"]["retries"] == 0


@virtual
async def test_a_handler_may_go_on_after_a_failed_step() -> None:
    World.failing["y"] = 1
    async with Kit(Worker):
        assert await AgentManager().get_agent("Worker/a").ask({"type": "careful"}) == "ConnectionError: y is down"
        assert World.calls["y"] == 1


@virtual
async def test_steps_run_side_by_side() -> None:
    async with Kit(Worker):
        started = asyncio.get_running_loop().time()
        assert await AgentManager().get_agent("Worker/a").ask({"type": "parallel", "n": 20}) == [
            f"p{i}!" for i in range(20)
        ]
        assert asyncio.get_running_loop().time() - started < 1.0


@virtual
async def test_a_replay_that_takes_another_step_is_a_dead_letter() -> None:
    async with Kit(Worker) as kit:
        await AgentManager().get_agent("Worker/a").tell({"type": "fickle"})
        (letter,) = kit.dead_letters()
        assert letter.reason == "step-mismatch"
        assert "step 0 of a turn of Worker/a was step one before, and is step another now" in letter.error
        assert letter.attempts == 2
        assert _cells(kit) == []


@virtual
async def test_a_result_that_fits_no_batch_is_refused_before_anything_is_written() -> None:
    async with Kit(Worker) as kit:
        await AgentManager().get_agent("Worker/a").tell({"type": "huge"})
        (letter,) = kit.dead_letters()
        assert letter.reason == BatchTooLarge.reason
        assert _cells(kit) == []


@virtual
async def test_nothing_is_left_in_the_journal_after_the_turn() -> None:
    async with Kit(Worker, Ledger) as kit:
        await AgentManager().get_agent("Worker/a").ask(Work(5))
        written = [r for j in kit.log.journals for r in j if b"\x1fstep/" in r.key]
        assert sum(r.value is not None for r in written) == 5
        assert _cells(kit) == []


@pytest.mark.parametrize("crash_after", range(21))
def test_a_crash_at_each_boundary_of_a_20_step_turn_repeats_no_finished_step(crash_after: int) -> None:
    @virtual
    async def scenario() -> None:
        async with Cluster(Worker, Ledger) as cluster:
            (address,) = addresses("Worker", 0, 1)
            cluster.post(address, Work(20))
            while len(_steps(cluster)) < crash_after:  # noqa: ASYNC110 - virtual time
                await asyncio.sleep(0.01)
            finished = set(_steps(cluster))
            calls = World.calls.copy()
            await cluster.kill(0)
            await cluster.assign([1, 1, 1, 1], untold=[0])
            await cluster.settle()
            assert cluster.state(address).done == [f"{address}-{i}!" for i in range(20)]
            for index in range(20):
                name = f"{address}-{index}"
                assert World.calls[name] == (calls[name] if index in finished else calls[name] + 1), name
            assert len(finished) == crash_after
            assert cluster.state("Ledger/all").texts == [address]

    scenario()


@virtual
async def test_an_ask_brings_the_reply_into_the_turn() -> None:
    async with Kit(Asker, Oracle, concurrency_max=1):
        asker = AgentManager().get_agent("Asker/a")
        assert await asker.ask({"type": "ask", "whom": "Oracle/x", "what": "double", "n": 21}) == 42
        assert asker.answers == [42]
        assert AgentManager().get_agent("Oracle/x").asked == 1


@virtual
async def test_an_ask_of_an_agent_that_fails_says_so() -> None:
    async with Kit(Asker, Oracle):
        with pytest.raises(AgentError, match="no idea"):
            await AgentManager().get_agent("Asker/a").ask({"type": "ask", "whom": "Oracle/x", "what": "broken"})


@virtual
async def test_an_ask_ends_with_its_deadline_and_the_late_reply_is_counted() -> None:
    async with Kit(Asker, Oracle) as kit:
        asker = AgentManager().get_agent("Asker/a")
        with pytest.raises(AgentError) as raised:
            await asker.ask({"type": "ask", "whom": "Oracle/x", "what": "slow", "timeout": 2.0}, 300)
        assert raised.value.error_type == AskTimeout.reason
        await kit.settle()
        # Two attempts of the turn, one request each; the second reached the oracle after its deadline.
        assert AgentManager().get_agent("Oracle/x").asked == 1
        assert kit.statistics()[0]["failures"]["late_replies"] == 2
        assert _cells(kit) == []


@virtual
async def test_an_ask_cycle_is_refused() -> None:
    async with Kit(Asker, Oracle):
        manager = AgentManager()
        with pytest.raises(AgentError) as raised:
            await manager.get_agent("Asker/first").ask({"type": "ask", "whom": "Asker/b", "what": "relay"})
        assert AskCycle.__name__ in str(raised.value) or "ask-cycle" in str(raised.value)


@pytest.mark.parametrize("moment", [0.001 * i for i in range(1, 25)])
def test_an_ask_is_made_once_whenever_its_worker_dies(moment: float) -> None:
    @virtual
    async def scenario() -> None:
        Oracle.seen.clear()
        async with Cluster(Asker, Oracle) as cluster:
            (asker,) = addresses("Asker", 0, 1)
            (oracle,) = addresses("Oracle", 1, 1)
            cluster.post(asker, {"type": "ask", "whom": oracle, "what": "double", "n": 5})
            await asyncio.sleep(moment)
            await cluster.kill(0)
            await asyncio.sleep(1)
            await cluster.assign([1, 1, 1, 1], untold=[0])
            await cluster.settle()
            assert cluster.state(asker).answers == [10]
            assert cluster.state(oracle).asked == 1
            assert Oracle.seen == [5]

    scenario()


@virtual
async def test_a_stop_leaves_a_turn_that_waits_for_a_reply_to_the_next_owner() -> None:
    Oracle.seen.clear()
    async with Cluster(Asker, Oracle) as cluster:
        (asker,) = addresses("Asker", 0, 1)
        (oracle,) = addresses("Oracle", 1, 1)
        await cluster.assign([0, 0, 0, 0])
        cluster.post(asker, {"type": "ask", "whom": oracle, "what": "double", "n": 5})
        await asyncio.sleep(0.0015)
        started = asyncio.get_running_loop().time()
        assert await cluster.engine(0).drain(timeout=30)  # the oracle is its own, and starts no turn any more
        assert asyncio.get_running_loop().time() - started < 1
        assert Oracle.seen == []
        await cluster.kill(0)
        await cluster.assign([1, 1, 1, 1])
        await cluster.settle()
        assert cluster.state(asker).answers == [10]
        assert Oracle.seen == [5]


def _steps(cluster: Cluster) -> list[int]:
    """Numbers of the steps that partition 0's journal holds."""
    return [int(r.key.rpartition(b"/")[2]) for r in cluster.log.journals[0] if b"\x1fstep/" in r.key and r.value]


def _cells(kit: Kit) -> list[bytes]:
    """Keys of all cells that are left."""
    last = {r.key: r.value for journal in kit.log.journals for r in journal if b"\x1f" in r.key}
    return [key for key, value in last.items() if value is not None]
