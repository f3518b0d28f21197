import base64
import json
from typing import Any

import pytest

from rookery.agents import Agent
from rookery.agents.errors import SpawnRefused
from rookery.agents.system import handle_system, read_spawn
from rookery.agents.types import AgentType
from rookery.schemas.envelope import Priority
from rookery.schemas.errors import InvalidAddress, MessageTooLarge, PayloadError, UnknownHandler
from tests.unit.agents.fakes import Add, an_envelope, in_turn, read


class Cart(Agent):
    owner: str = ""
    first: int = 0
    rest: list[int] = []  # noqa: RUF012

    async def on_spawn(self, owner: str, add: Add | None = None, *more: Add) -> None:
        self.owner, self.rest = owner, [add.n for add in more]
        if add is not None:
            self.first = add.n
            self.send("Log/audit", add)


class Plain(Agent):
    n: int = 0


class Eager(Agent):
    n: int = 0

    def on_spawn(self, n: int) -> None:
        self.n = n


async def deliver(cls: type[Agent], message_type: str, body: Any) -> tuple[Any, Agent, list[Any]]:
    envelope = an_envelope(type=message_type, payload=body if isinstance(body, bytes) else json.dumps(body).encode())
    agent, context = in_turn(cls, envelope)
    result = await handle_system(AgentType.of(cls), agent, context, envelope)
    return result, agent, context.take()


def spawn(cls: type[Agent], *args: Any) -> dict[str, Any]:
    return {"type": "Cart", "args": [json.loads(bytes(arg)) for arg in AgentType.of(cls).encode_spawn(args)]}


@pytest.mark.asyncio
async def test_spawn_runs_on_spawn_with_typed_arguments() -> None:
    result, agent, sends = await deliver(Cart, "rookery.spawn", spawn(Cart, "ann", Add(2), Add(3), Add(4)))
    assert (result, AgentType.of(Cart).state_of(agent)) == (None, {"owner": "ann", "first": 2, "rest": [3, 4]})
    assert read(sends[0]).type == "Add"
    _, agent, _ = await deliver(Cart, "rookery.spawn", spawn(Cart, "bob"))
    assert AgentType.of(Cart).state_of(agent) == {"owner": "bob", "first": 0, "rest": []}
    _, agent, _ = await deliver(Plain, "rookery.spawn", {"type": "Plain"})
    assert AgentType.of(Plain).state_of(agent) == {"n": 0}
    _, agent, _ = await deliver(Eager, "rookery.spawn", {"type": "Eager", "args": [5]})
    assert AgentType.of(Eager).state_of(agent) == {"n": 5}


@pytest.mark.parametrize("args", [(), ("ann", 1, 2), ("ann", Add(1), object())])
def test_arguments_are_checked_before_they_are_sent(args: tuple[Any, ...]) -> None:
    agent_type = AgentType.of(Cart)
    if args == ("ann", 1, 2):  # a wrong type is found where it arrives
        agent_type.encode_spawn(args)
        return
    with pytest.raises(SpawnRefused, match="Cart can't be spawned like this"):
        agent_type.encode_spawn(args)


def test_the_default_takes_no_arguments() -> None:
    with pytest.raises(SpawnRefused, match="too many positional arguments"):
        AgentType.of(Plain).encode_spawn((1,))
    with pytest.raises(SpawnRefused, match="it takes no arguments"):
        in_turn(Plain)[0].on_spawn(1)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "body", [{"type": "Cart", "args": []}, {"type": "Cart", "args": [1]}, {"type": "Cart", "args": ["a", "b"]}]
)
async def test_bad_arguments_on_arrival(body: Any) -> None:
    with pytest.raises(SpawnRefused):
        await deliver(Cart, "rookery.spawn", body)


@pytest.mark.asyncio
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"args": []}', b"\xff"])
async def test_damaged_system_messages(body: bytes) -> None:
    for message_type in ("rookery.spawn", "rookery.send"):
        with pytest.raises(PayloadError):
            await deliver(Cart, message_type, body)


def test_read_spawn_names_the_class() -> None:
    assert read_spawn(an_envelope(type="rookery.spawn", payload=b'{"type": "Cart", "args": ["a"]}')).type == "Cart"


@pytest.mark.asyncio
async def test_state() -> None:
    result, agent, sends = await deliver(Cart, "rookery.state", {})
    assert (result, sends) == (AgentType.of(Cart).state_of(agent), [])


@pytest.mark.asyncio
async def test_send_goes_out_in_the_name_of_the_agent() -> None:
    body = {
        "target": "Log/audit",
        "type": "PING",
        "content_type": "application/json",
        "payload": base64.b64encode(b'{"type":"PING"}').decode(),
        "priority": 2,
        "headers": {"h": "v"},
    }
    result, _, (sent,) = await deliver(Cart, "rookery.send", body)
    seen = read(sent)
    assert (result, sent.target, sent.priority) == (None, "Log/audit", Priority.HIGH)
    assert (seen.sender, seen.payload, seen.type, dict(seen.headers)) == (
        "Counter/a",
        b'{"type":"PING"}',
        "PING",
        {"h": "v"},
    )
    with pytest.raises(InvalidAddress):
        await deliver(Cart, "rookery.send", body | {"target": "nowhere"})
    with pytest.raises(PayloadError):
        await deliver(Cart, "rookery.send", body | {"priority": 7})
    with pytest.raises(MessageTooLarge):
        await deliver(Cart, "rookery.send", body | {"payload": base64.b64encode(b"x" * 1_000_001).decode()})


@pytest.mark.asyncio
async def test_unknown_system_message() -> None:
    with pytest.raises(UnknownHandler, match=r"rookery\.dance"):
        await deliver(Cart, "rookery.dance", {})
