import logging
from typing import Any

import pytest

from rookery.agents import Agent, handler
from rookery.agents.effects import error_body, reply_body
from rookery.agents.errors import OutsideTurn
from rookery.agents.types import AgentType
from rookery.schemas.envelope import JSON, SEAL_BYTES, Priority, seal
from rookery.schemas.errors import InvalidAddress, MessageTooLarge, PayloadError
from tests.unit.agents.fakes import NOW_NS, Add, Total, a_context, an_envelope, in_turn, read


class Counter(Agent):
    count: int = 0

    @handler
    async def add(self, msg: Add) -> Total:
        self.count += msg.n
        return Total(self.count)


def test_sends_are_collected_in_order_with_all_fields() -> None:
    agent, context = in_turn(Counter)
    agent.send("Log/audit", Add(1), priority=Priority.HIGH, headers={"h": "v"}, deadline=1.5)
    agent.send("Log/audit", {"type": "PING"})
    first, second = context.take()
    assert (first.target, first.priority) == ("Log/audit", Priority.HIGH)
    seen = read(first)
    assert (seen.sender, seen.target, seen.payload, seen.timestamp) == ("Counter/a", "Log/audit", b'{"n":1}', NOW_NS)
    assert (seen.id, seen.type, seen.content_type, int(seen.priority)) == ("new-1", "Add", JSON, 2)
    assert (seen.deadline, dict(seen.headers), seen.reply_to) == (NOW_NS + 1_500_000_000, {"h": "v"}, "")
    assert (read(second).type, read(second).id, read(second).deadline) == ("PING", "new-2", 0)
    assert second.priority is Priority.NORMAL


@pytest.mark.asyncio
async def test_await_is_optional_and_repeatable() -> None:
    agent, context = in_turn(Counter)
    for _ in range(3):
        assert await agent.send("Log/audit", Add(1)) is None  # type: ignore[func-returns-value]
    agent.send("Log/audit", Add(1))
    assert len(context.take()) == 4


def test_messages_are_encoded_when_they_are_sent() -> None:
    agent, context = in_turn(Counter)
    message = {"type": "PING", "n": 1}
    agent.send("Log/audit", message)
    message["n"] = 2
    assert read(context.take()[0]).payload == b'{"type":"PING","n":1}'


def test_target_may_be_an_agent() -> None:
    agent, context = in_turn(Counter)
    agent.send(agent, Add(1))
    assert context.take()[0].target == "Counter/a"


@pytest.mark.parametrize(("correlation_id", "expected"), [("", "m1"), ("c0", "c0")])
def test_lineage(correlation_id: str, expected: str) -> None:
    cause = an_envelope(correlation_id=correlation_id, headers={"traceparent": "00-1", "other": "x"})
    agent, context = in_turn(Counter, cause)
    agent.send("Log/audit", Add(1))
    agent.send("Log/audit", Add(1), headers={"traceparent": "mine", "h": "v"})
    first, second = (read(sent) for sent in context.take())
    assert (first.correlation_id, first.causation_id, dict(first.headers)) == (expected, "m1", {"traceparent": "00-1"})
    assert dict(second.headers) == {"traceparent": "mine", "h": "v"}
    context.begin(an_envelope(id="m2"), NOW_NS)
    agent.send("Log/audit", Add(1))
    (third,) = context.take()
    assert (read(third).correlation_id, read(third).causation_id, dict(read(third).headers)) == ("m2", "m2", {})


@pytest.mark.parametrize(("written", "read_as"), [(0, Priority.LOW), (2, Priority.HIGH), (3, Priority.NORMAL)])
def test_the_priority_of_the_message_in_hand_is_one_of_ours(written: int, read_as: Priority) -> None:
    agent, _ = in_turn(Counter, an_envelope(priority=written))
    assert agent.priority is read_as
    assert repr(agent.priority) == repr(read_as)


def test_a_turn_without_a_message_can_send() -> None:
    agent, context = in_turn(Counter)
    context.begin(None, NOW_NS)
    agent.send("Log/audit", Add(1))
    assert (read(context.take()[0]).correlation_id, context.envelope) == ("", None)
    with pytest.raises(OutsideTurn):
        _ = agent.message


def test_refusals_are_raised_in_the_handler_and_send_nothing() -> None:
    agent, context = in_turn(Counter)
    for target in ("nonsense", "/", 3, None):
        with pytest.raises(InvalidAddress):
            agent.send(target, Add(1))  # type: ignore[arg-type]
    with pytest.raises(PayloadError):
        agent.send("Log/audit", object())
    assert context.take() == []


def test_size_limit_is_that_of_the_sealed_envelope() -> None:
    agent, context = in_turn(Counter)
    agent.send("Log/audit", "x" * 500)
    (sent,) = context.take()
    size = len(sent.body) + SEAL_BYTES
    assert len(seal(sent.body, 2**32 - 1, 2**64 - 1)) == size
    for limit, fits in ((size, True), (size - 1, False)):
        context.message_bytes_max = limit
        context.begin(an_envelope(), NOW_NS)
        if fits:
            agent.send("Log/audit", "x" * 500)
        else:
            with pytest.raises(MessageTooLarge, match=f"Log/audit has {size} bytes, the limit is {limit}"):
                agent.send("Log/audit", "x" * 500)


def test_outside_a_turn() -> None:
    agent, context = in_turn(Counter)
    context.take()
    with pytest.raises(OutsideTurn, match=r"send\(\) of agent Counter/a outside a turn"):
        agent.send("Log/audit", Add(1))
    fresh = AgentType.of(Counter).create(a_context())
    with pytest.raises(OutsideTurn, match="message of agent"):
        _ = fresh.sender


def test_sends_of_a_failed_turn_are_dropped() -> None:
    agent, context = in_turn(Counter)
    agent.send("Log/audit", Add(1))
    context.take()
    context.begin(an_envelope(), NOW_NS)
    assert context.take() == []


def test_the_framework_is_not_state() -> None:
    agent, _ = in_turn(Counter)
    assert vars(agent) == {"count": 0}
    assert (agent.id, agent.sender, agent.message.id) == ("Counter/a", "Sender/s", "m1")
    assert repr(agent) == "<Counter Counter/a>"


def test_log_knows_type_id_and_message(caplog: pytest.LogCaptureFixture) -> None:
    agent, context = in_turn(Counter, address="Counter/50%s")
    with caplog.at_level(logging.INFO):
        agent.log.info("added %d", 3, extra={"more": 1})
        context.begin(an_envelope(id="m2"), NOW_NS)
        agent.log.info("100%")
    first, second = caplog.records
    assert (first.name, first.getMessage()) == ("rookery.agents.Counter", "[Counter/50\\x25s] added 3")
    fields = ("agent_type", "agent_id", "message_id", "more")
    assert [getattr(first, name) for name in fields] == ["Counter", "Counter/50%s", "m1", 1]
    assert (second.getMessage().split()[-1], vars(second)["message_id"]) == ("100%", "m2")
    assert first.funcName == "test_log_knows_type_id_and_message"


@pytest.mark.asyncio
async def test_default_hooks_do_nothing() -> None:
    agent, _ = in_turn(Counter)
    assert agent.on_activate() is agent.on_passivate() is agent.on_spawn() is None


def ask(**fields: Any) -> Any:
    return an_envelope(reply_to="client:web", priority=2, **fields)


def test_no_reply_unless_asked() -> None:
    _, context = in_turn(Counter)
    context.take()
    assert reply_body(context, Total(1)) is None
    assert error_body(an_envelope(), "handler-failed", "no", now_ns=NOW_NS, message_id="r1") is None
    context.begin(None, NOW_NS)
    assert reply_body(context, Total(1)) is None


@pytest.mark.parametrize(("result", "payload"), [(Total(3), b'{"count":3}'), (None, b"null"), ([1, "a"], b'[1,"a"]')])
def test_reply(result: Any, payload: bytes) -> None:
    _, context = in_turn(Counter, ask(headers={"traceparent": "00-1", "h": "v"}))
    context.take()
    outgoing = reply_body(context, result)
    assert outgoing is not None
    assert (outgoing.target, outgoing.priority) == ("client:web", Priority.HIGH)
    seen = read(outgoing)
    assert (seen.sender, seen.target, seen.payload, seen.content_type) == ("Counter/a", "client:web", payload, JSON)
    assert (seen.id, seen.correlation_id, seen.causation_id) == ("new-1", "m1", "m1")
    assert (seen.timestamp, dict(seen.headers)) == (NOW_NS, {"traceparent": "00-1"})


def test_reply_keeps_the_conversation_and_its_limit() -> None:
    _, context = in_turn(Counter, ask(correlation_id="c0"))
    outgoing = reply_body(context, "x")
    assert outgoing is not None
    assert read(outgoing).correlation_id == "c0"
    context.message_bytes_max = 50
    with pytest.raises(MessageTooLarge, match="client:web"):
        reply_body(context, "x")
    with pytest.raises(PayloadError):
        reply_body(context, object())


def test_error_reply() -> None:
    outgoing = error_body(ask(correlation_id="c0"), "handler-failed", "x" * 9_999, now_ns=NOW_NS, message_id="r1")
    assert outgoing is not None
    seen = read(outgoing)
    assert (seen.type, seen.id, seen.correlation_id) == ("rookery.failure", "r1", "c0")
    assert dict(seen.headers) == {"error": "handler-failed"}
    assert seen.payload == b'{"error":"handler-failed","text":"' + b"x" * 4_000 + b'"}'
