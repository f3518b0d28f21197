"""Agent.guard: an older token is refused, whatever happened in between to the agent or its turns."""

from __future__ import annotations

from typing import Any

import pytest

from rookery import Agent, AgentError, AgentManager, ConfigurationError, StaleFence, check_fence, handler
from rookery.agents import guard as marks
from rookery.agents.errors import OutsideTurn
from rookery.testing import Kit, run
from tests.unit.agents.fakes import a_context


class Vault(Agent):
    gold: int = 0

    @handler("deposit")
    async def deposit(self, msg: dict[str, Any]) -> int:
        self.guard("vault", msg["fence"])
        self.gold += msg["gold"]
        if msg.get("fail"):
            raise KeyError("after the guard")
        return self.gold

    @handler("many")
    async def many(self, msg: dict[str, Any]) -> None:
        for number in range(msg["locks"]):
            self.guard(f"lock-{number}", 1)


def deposit(gold: int, fence: int, **more: int) -> dict[str, object]:
    return {"type": "deposit", "gold": gold, "fence": fence, **more}


async def refused(work: object) -> str:
    with pytest.raises(AgentError) as raised:
        await work  # type: ignore[misc]
    return raised.value.error_type


@pytest.mark.rookery
async def test_an_older_token_is_refused_and_changes_nothing() -> None:
    vault = AgentManager().get_agent(await AgentManager().spawn_agent(Vault))
    assert await vault.ask(deposit(5, fence=7)) == 5
    assert await vault.ask(deposit(5, fence=7)) == 10, "the same holder may come again"
    assert await refused(vault.ask(deposit(100, fence=6))) == "stale-fence"
    assert await vault.ask(deposit(1, fence=9)) == 11
    assert await refused(vault.ask(deposit(100, fence=8))) == "stale-fence"
    assert await vault.state() == {"gold": 11}


@pytest.mark.rookery
async def test_a_failed_turn_takes_its_mark_back() -> None:
    vault = AgentManager().get_agent(await AgentManager().spawn_agent(Vault))
    await vault.ask(deposit(1, fence=1))
    assert await refused(vault.ask(deposit(1, fence=9, fail=1))) != "stale-fence"
    assert await vault.ask(deposit(1, fence=5)) == 2, "the holder of 9 has read and written nothing"


def test_marks_survive_passivation_and_recovery() -> None:
    async def main() -> None:
        async with Kit(Vault, passivate_after=0.1) as kit:
            vault = kit.manager.get_agent("Vault/a")
            await vault.ask(deposit(1, fence=7))
            for worker in kit._workers:
                await worker.assign(set())
                await worker.assign(set(range(kit.settings.partitions)))
            assert await refused(vault.ask(deposit(1, fence=6))) == "stale-fence"
            assert await vault.ask(deposit(1, fence=7)) == 2

    run(main())


@pytest.mark.rookery
async def test_the_number_of_locks_is_bounded() -> None:
    vault = AgentManager().get_agent(await AgentManager().spawn_agent(Vault))
    await vault.ask({"type": "many", "locks": marks.LOCKS_MAX})
    assert await refused(vault.ask({"type": "many", "locks": marks.LOCKS_MAX + 1})) == ConfigurationError.reason


def test_an_agent_that_guards_nothing_stores_nothing_more() -> None:
    kind = Vault.__rookery_type__
    agent = kind.create(a_context())
    assert kind.dump(agent) == b"\x81\xa4gold\x00"
    with pytest.raises(OutsideTurn):
        agent.guard("vault", 1)
    assert not hasattr(agent, marks.ATTRIBUTE)


@pytest.mark.parametrize("token", [-1, True, None, "7", 7.0])
def test_what_is_no_token_is_refused(token: object) -> None:
    with pytest.raises(ValueError, match="no fencing token"):
        check_fence({}, "a", token)  # type: ignore[arg-type]


def test_a_refusal_says_what_was_seen() -> None:
    seen = {"a": 7}
    with pytest.raises(StaleFence, match="token 6 is refused, 7 was seen"):
        check_fence(seen, "a", 6)
    check_fence(seen, "b", 0)
    check_fence(seen, "a", 8)
    assert seen == {"a": 8, "b": 0}
