import asyncio
import contextvars
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from rookery.agents import Agent, AgentManager, StateView, handler
from rookery.agents.binding import Reply, bind, current, unbind
from rookery.agents.errors import SpawnRefused
from rookery.agents.types import AgentType
from rookery.schemas.envelope import JSON, Priority
from rookery.schemas.errors import (
    AgentError,
    AgentStopped,
    InvalidAddress,
    InvalidAgent,
    NotBound,
    NotOwned,
    PayloadError,
    UnknownAgentType,
)
from rookery.schemas.system import SendAs
from tests.unit.agents.fakes import NOW_NS, Add, FakeConnection, Total, a_context


class Counter(Agent):
    count: int = 0
    tags: list[str] = []  # noqa: RUF012

    async def on_spawn(self, start: int = 0) -> None:
        self.count = start

    @handler
    async def add(self, msg: Add) -> Total:
        return Total(self.count + msg.n)


@pytest.fixture
def connection() -> Iterator[FakeConnection]:
    connection = FakeConnection()
    bind(connection)
    yield connection
    unbind(connection)


def a_reply(body: bytes, error: str | None = None) -> Reply:
    return Reply("x", JSON, body, error)


# --- binding ---------------------------------------------------------------------------------------------------------


def test_not_bound() -> None:
    with pytest.raises(NotBound, match="AgentManager"):
        AgentManager()


def test_the_context_comes_first_then_the_newest_of_the_process() -> None:
    first, second = FakeConnection(), FakeConnection()
    context = contextvars.copy_context()
    context.run(bind, first)
    bind(second)
    try:
        assert context.run(current) is first
        assert current() is second
        assert contextvars.Context().run(current) is second
        unbind(second)
        unbind(second)
        assert current() is first
    finally:
        unbind(first)
    # The context still names what was unbound elsewhere.
    with pytest.raises(NotBound):
        context.run(current)


@pytest.mark.asyncio
async def test_tasks_inherit_the_binding() -> None:
    connection = FakeConnection()
    bind(connection)
    try:
        assert await asyncio.create_task(asyncio.to_thread(current)) is connection
    finally:
        unbind(connection)


def test_a_manager_may_be_given_its_connection() -> None:
    assert AgentManager(FakeConnection()).get_agent("Counter/a").id == "Counter/a"


# --- manager ---------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_spawn(connection: FakeConnection) -> None:
    agent_id = await AgentManager().spawn_agent(Counter, 5, timeout=2.5)
    (call,) = connection.calls
    assert (call.kind, call.target, call.type, call.content_type) == ("ask", agent_id, "rookery.spawn", JSON)
    assert (call.body, call.priority, call.timeout) == ({"type": "Counter", "args": [5]}, Priority.HIGH, 2.5)
    assert connection.registry.names() == ("Counter",)


@pytest.mark.asyncio
async def test_what_can_not_be_spawned_is_refused_before_anything_is_sent(connection: FakeConnection) -> None:
    manager = AgentManager()
    with pytest.raises(SpawnRefused, match="too many positional"):
        await manager.spawn_agent(Counter, 1, 2)
    with pytest.raises(InvalidAgent):
        await manager.spawn_agent(int)  # type: ignore[arg-type]

    def refuse(cls: type[Agent]) -> None:
        raise UnknownAgentType(cls.__name__)

    connection.register = refuse  # type: ignore[method-assign]
    with pytest.raises(UnknownAgentType):
        await manager.spawn_agent(Counter)
    assert connection.calls == []


@pytest.mark.asyncio
async def test_a_failed_spawn_raises(connection: FakeConnection) -> None:
    connection.reply = a_reply(b'{"error": "handler-failed", "text": "no start"}', "handler-failed")
    with pytest.raises(AgentError, match="no start"):
        await AgentManager().spawn_agent(Counter)


@pytest.mark.asyncio
async def test_stop(connection: FakeConnection) -> None:
    await AgentManager().stop_agent("Counter/a", timeout=1.0)
    (call,) = connection.calls
    assert (call.kind, call.target, call.type, call.timeout) == ("ask", "Counter/a", "rookery.stop", 1.0)


def test_get_agent_checks_the_address(connection: FakeConnection) -> None:
    with pytest.raises(InvalidAddress):
        AgentManager().get_agent("nonsense")


# --- handle ----------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_tell(connection: FakeConnection) -> None:
    handle = AgentManager().get_agent("Counter/a")
    await handle.tell(Add(3), priority=Priority.LOW, deadline=2.0)
    await handle.tell({"type": "PING"})
    first, second = connection.calls
    assert (first.kind, first.type, first.body, first.priority) == ("tell", "Add", {"n": 3}, Priority.LOW)
    assert first.deadline_ns == NOW_NS + 2_000_000_000
    assert (second.type, second.priority, second.deadline_ns) == ("PING", Priority.NORMAL, 0)
    with pytest.raises(PayloadError):
        await handle.tell(object())


@pytest.mark.asyncio
async def test_send_asks_the_agent_to_send(connection: FakeConnection) -> None:
    manager = AgentManager()
    await manager.get_agent("Counter/a").send(manager.get_agent("Log/x"), {"type": "PING"}, priority=Priority.HIGH)
    (call,) = connection.calls
    assert (call.kind, call.target, call.type, call.priority) == ("tell", "Counter/a", "rookery.send", Priority.HIGH)
    assert msgspec.json.decode(call.payload, type=SendAs) == SendAs(
        "Log/x", "PING", JSON, b'{"type":"PING"}', Priority.HIGH
    )
    with pytest.raises(InvalidAddress):
        await manager.get_agent("Counter/a").send("nowhere", {})


@pytest.mark.asyncio
async def test_ask_decodes_the_reply(connection: FakeConnection) -> None:
    handle = AgentManager().get_agent("Counter/a")
    connection.reply = a_reply(b'{"count": 3}')
    assert await handle.ask(Add(3), 2.0) == {"count": 3}
    assert await handle.ask(Add(3), reply_type=Total) == Total(3)
    assert [call.timeout for call in connection.calls] == [2.0, None]
    connection.reply = a_reply(b"null")
    assert await handle.ask(Add(3)) is None
    with pytest.raises(PayloadError):
        await handle.ask(Add(3), reply_type=Total)


@dataclass
class Case:
    code: str
    raised: type[Exception]
    error_type: str | None = None


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "case",
    [
        Case("handler-failed", AgentError, ""),
        Case("unknown-handler", AgentError, "unknown-handler"),
        Case("agent-stopped", AgentStopped),
    ],
)
async def test_error_replies_raise(connection: FakeConnection, case: Case) -> None:
    connection.reply = a_reply(b'{"error": "ignored", "text": "what went wrong"}', case.code)
    with pytest.raises(case.raised, match="Counter/a") as caught:
        await AgentManager().get_agent("Counter/a").ask(Add(1))
    if isinstance(caught.value, AgentError):
        assert (caught.value.error, caught.value.error_type) == ("what went wrong", case.error_type)
    connection.reply = a_reply(b"\xff no JSON", case.code)
    with pytest.raises(case.raised):
        await AgentManager().get_agent("Counter/a").state()


@pytest.mark.asyncio
async def test_state_is_a_frozen_view(connection: FakeConnection) -> None:
    connection.reply = a_reply(b'{"count": 3, "tags": ["a"]}')
    state = await AgentManager().get_agent("Counter/a").state(timeout=1.0)
    assert (state.count, state["tags"], dict(state)) == (3, ["a"], {"count": 3, "tags": ["a"]})
    assert state == {"count": 3, "tags": ["a"]}
    assert (len(state), repr(state)) == (2, "StateView({'count': 3, 'tags': ['a']})")
    with pytest.raises(AttributeError, match="send it a message"):
        state.count = 4
    with pytest.raises(AttributeError, match="only count, tags"):
        _ = state.total
    assert copy.copy(state) == state
    (call,) = connection.calls
    assert (call.type, call.priority, call.timeout) == ("rookery.state", Priority.HIGH, 1.0)


def test_attributes_read_the_committed_state(connection: FakeConnection) -> None:
    counter = AgentType.of(Counter)
    agent: Any = counter.create(a_context())
    agent.count = 9
    connection.states = {"Counter/a": (counter, counter.dump(agent)), "Counter/b": (counter, None)}
    manager = AgentManager()
    assert (manager.get_agent("Counter/a").count, manager.get_agent("Counter/b").count) == (9, 0)
    with pytest.raises(AttributeError, match="type Counter has no state field 'total'"):
        _ = manager.get_agent("Counter/a").total


def test_attributes_of_agents_elsewhere_say_what_to_use(connection: FakeConnection) -> None:
    connection.away = NotOwned("Counter/a", "count")
    handle = AgentManager().get_agent("Counter/a")
    with pytest.raises(NotOwned, match=r"await handle\.state\(\)"):
        _ = handle.count
    # Python's own protocols must not end up at the connection.
    assert copy.copy(handle).id == "Counter/a"
    assert repr(handle) == "<AgentHandle Counter/a>"


def test_an_empty_view() -> None:
    assert StateView({}) == {}
