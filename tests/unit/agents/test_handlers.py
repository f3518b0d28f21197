from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from rookery.agents import Agent, handler
from rookery.agents.types import AgentType
from rookery.schemas.envelope import JSON
from rookery.schemas.errors import InvalidAgent, PayloadError
from tests.unit.agents.fakes import Add, Total, in_turn


class Sub(msgspec.Struct):
    n: int


class Counter(Agent):
    count: int = 0

    @handler
    def add(self, msg: Add) -> Total:
        self.count += msg.n
        return Total(self.count)

    @handler
    async def sub(self, msg: Sub) -> None:
        self.count -= msg.n

    @handler("PING")
    async def ping(self, msg: dict[str, Any]) -> str:
        return str(msg["type"])

    @handler("RAW")
    async def raw(self, msg: bytes) -> int:
        return len(msg)

    @handler("UNTYPED")
    async def untyped(self, msg, verbose=False):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        return msg


def call(cls: type[Agent], agent: Agent, message_type: str, payload: bytes, content_type: str = JSON) -> Any:
    bound = AgentType.of(cls).find(message_type)
    assert bound is not None
    return bound.function(agent, bound.decode(payload, content_type))


async def _run(cls: type[Agent], message_type: str, payload: bytes, content_type: str = JSON) -> Any:
    agent, _ = in_turn(cls)
    return await call(cls, agent, message_type, payload, content_type)


def test_finds_by_class_name() -> None:
    agent, _ = in_turn(Counter)
    assert call(Counter, agent, "Add", b'{"n": 3}') == Total(3)
    assert agent.count == 3


@pytest.mark.asyncio
async def test_async_handlers_by_class_and_by_name() -> None:
    assert await _run(Counter, "Sub", b'{"n": 3}') is None
    assert await _run(Counter, "PING", b'{"type": "PING"}') == "PING"
    assert await _run(Counter, "RAW", b"\x00\x01", "application/octet-stream") == 2
    assert await _run(Counter, "UNTYPED", b"[1]") == [1]


def test_unknown_type_is_none_and_the_error_names_the_known_ones() -> None:
    counter = AgentType.of(Counter)
    assert counter.find("Nope") is None
    assert counter.find("") is None
    assert "Add, PING, RAW, Sub, UNTYPED" in str(counter.unknown_handler("Nope"))


def test_a_payload_that_does_not_fit_is_refused() -> None:
    bound = AgentType.of(Counter).find("Add")
    assert bound is not None
    for bad in (b'{"n": "three"}', b"{}", b"\xff", b""):
        with pytest.raises(PayloadError):
            bound.decode(bad, JSON)


@pytest.mark.parametrize("annotation", [dict, Any, object, dict[str, Any]])
def test_catch_all_gets_what_no_other_handler_takes(annotation: Any) -> None:
    async def rest(self: Agent, msg: Any) -> Any:
        return msg

    rest.__annotations__["msg"] = annotation
    cls = type("Catching", (Counter,), {"rest": handler(rest)})
    find = AgentType.of(cls).find
    caught, typed = find("Whatever"), find("Add")
    assert caught is not None
    assert typed is not None
    assert (caught.method, caught.message_type, typed.method) == ("rest", None, "add")
    assert find("") is caught
    assert caught.decode(b'{"a": 1}', JSON) == {"a": 1}


class Loud(Counter):
    def add(self, msg: Add) -> Total:  # an override without the decorator is the handler still
        return Total(-1)

    @handler
    def total(self, msg: Total) -> int:
        return msg.count


def test_inheritance() -> None:
    agent, _ = in_turn(Loud)
    assert call(Loud, agent, "Add", b'{"n": 3}') == Total(-1)
    assert call(Loud, agent, "Total", b'{"count": 4}') == 4
    assert AgentType.of(Loud).find("PING") is not None
    assert AgentType.of(Counter).find("Total") is None


def test_mixin_brings_handlers() -> None:
    class Mixin:
        @handler
        def total(self, msg: Total) -> int:
            return 1

    class Mixed(Mixin, Agent):
        pass

    assert AgentType.of(Mixed).find("Total") is not None


def test_containers_and_builtins_go_by_the_name_of_their_class() -> None:
    class Lists(Agent):
        @handler
        def rows(self, msg: list[Add]) -> int:
            return sum(add.n for add in msg)

        @handler
        def text(self, msg: str) -> str:
            return msg

    agent, _ = in_turn(Lists)
    assert call(Lists, agent, "list", b'[{"n": 1}, {"n": 2}]') == 3
    assert call(Lists, agent, "str", b'"x"') == "x"


def no_parameter(self: Any) -> None: ...
def no_annotation(self: Any, msg) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001
def two_messages(self: Any, msg: Add, other: Add) -> None: ...
def keyword_only(self: Any, *, msg: Add) -> None: ...
def needs_keyword(self: Any, msg: Add, *, other: int) -> None: ...
def unresolvable(self: Any, msg: "Missing") -> None: ...  # type: ignore[name-defined]  # noqa: F821
def a_union(self: Any, msg: Add | Total) -> None: ...
def yields(self: Any, msg: Add) -> Any:
    yield 1


async def yields_too(self: Any, msg: Add) -> Any:
    yield 1


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (no_parameter, "has no message parameter: write `async def broken(self, msg: YourMessage)`"),
        (no_annotation, 'or `@handler("TYPE")` above it'),
        (two_messages, "called with one message, not other"),
        (keyword_only, "has no message parameter"),
        (needs_keyword, "called with one message, not other"),
        (unresolvable, "'Missing' is not defined"),
        (a_union, "one handler for each message class"),
        (yields, "yields: return the reply"),
        (yields_too, "yields: return the reply"),
    ],
)
def test_broken_handlers_are_found_when_the_class_is_made(method: Any, says: str) -> None:
    with pytest.raises(InvalidAgent, match="agent class Bad: ") as caught:
        type("Bad", (Agent,), {"broken": handler(method)})
    assert says in str(caught.value)
    assert "broken" in str(caught.value)


@pytest.mark.parametrize("name", ["", "rookery.spawn", "rookery.anything"])
def test_reserved_names(name: str) -> None:
    def method(self: Any, msg: Any) -> None: ...

    with pytest.raises(InvalidAgent, match=r"rookery\.\* is ours"):
        type("Bad", (Agent,), {"broken": handler(name)(method)})


def test_duplicates_are_found() -> None:
    with pytest.raises(InvalidAgent, match="add and more both handle messages of type 'Add'"):

        class Twice(Counter):
            @handler
            def more(self, msg: Add) -> None: ...

    with pytest.raises(InvalidAgent, match="one and two both handle every other message"):

        class CatchTwice(Agent):
            @handler
            def one(self, msg: dict) -> None: ...  # type: ignore[type-arg]

            @handler
            def two(self, msg: Any) -> None: ...


def test_only_plain_methods_can_be_handlers() -> None:
    with pytest.raises(InvalidAgent, match="@handler marks methods"):
        handler(3)  # type: ignore[call-overload]

    with pytest.raises(InvalidAgent, match="handler add is None"):
        type("Silenced", (Counter,), {"add": None})

    with pytest.raises(InvalidAgent, match="must be a method with self"):

        class Static(Agent):
            @staticmethod
            @handler
            def broken(agent: Any, msg: Add) -> None: ...


def test_a_class_of_a_function_works_where_annotations_are_classes() -> None:
    @dataclass
    class Local:
        x: int

    class Uses(Agent):
        @handler
        def local(self, msg: Local) -> int:
            return msg.x

    agent, _ = in_turn(Uses)
    assert call(Uses, agent, "Local", b'{"x": 5}') == 5
