import dataclasses
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar

import msgspec
import pytest

from rookery.agents import Agent
from rookery.agents.types import AgentType, Registry
from rookery.schemas.errors import ConfigurationError, InvalidAgent, PayloadError, UnknownAgentType
from tests.unit.agents.fakes import a_context


@dataclass
class Leg:
    to: str
    at: datetime


class Plane(Agent):
    count: int = 0
    legs: list[Leg] = []  # noqa: RUF012 - the point: copied for each instance
    seen: set[str] = dataclasses.field(default_factory=lambda: {"home"})
    by_day: dict[int, float] = msgspec.field(default_factory=dict)
    note: str | None = None
    limit: ClassVar[int] = 9
    _private: int = 1


class Jet(Plane):
    engines: int = 2
    count = 7


def make(cls: type[Agent] = Plane) -> Any:
    return AgentType.of(cls).create(a_context("Plane/p"))


def test_defaults_are_copied_for_each_instance() -> None:
    one, two = make(), make()
    one.legs.append(1)
    one.seen.add("x")
    one.by_day[1] = 2.0
    assert (two.legs, two.seen, two.by_day) == ([], {"home"}, {})
    assert make().legs == []


def test_state_is_what_is_declared() -> None:
    assert vars(make()) == {"count": 0, "legs": [], "seen": {"home"}, "by_day": {}, "note": None}
    assert vars(make(Jet)) == {"count": 7, "legs": [], "seen": {"home"}, "by_day": {}, "note": None, "engines": 2}


def test_round_trip_keeps_types_and_forgets_transients() -> None:
    plane = AgentType.of(Plane)
    agent = make()
    at = datetime(2013, 1, 1, 5, 15, tzinfo=UTC)
    agent.legs.append(Leg("IAH", at))
    agent.seen.add("N14228")
    agent.by_day[3] = 0.5
    agent.note, agent.cache, agent._private = "late", object(), 2
    data = plane.dump(agent)
    other = make()
    plane.load(other, data)
    assert (other.legs, other.seen, other.by_day, other.note) == (
        [Leg("IAH", at)],
        {"home", "N14228"},
        {3: 0.5},
        "late",
    )
    assert not hasattr(other, "cache")
    assert set(msgspec.msgpack.decode(data)) == {"count", "legs", "seen", "by_day", "note"}
    assert len(plane.dump(other)) == len(data)


def test_evolution_missing_fields_get_defaults_unknown_are_ignored() -> None:
    agent = make()
    agent.count, agent.note = 5, "x"
    AgentType.of(Plane).load(agent, msgspec.msgpack.encode({"count": 3, "gone": [1]}))
    assert (agent.count, agent.note, agent.seen) == (3, None, {"home"})
    AgentType.of(Plane).load(agent, None)
    assert agent.count == 0


@pytest.mark.parametrize("fields", [{}, {"only": 1}])
def test_few_fields(fields: dict[str, int]) -> None:
    cls = type("Few", (Agent,), {"__annotations__": dict.fromkeys(fields, int), **fields})
    agent_type = AgentType.of(cls)
    assert msgspec.msgpack.decode(agent_type.dump(make(cls))) == fields
    agent_type.load(make(cls), agent_type.dump(make(cls)))


def test_what_can_not_be_stored_names_class_and_field() -> None:
    agent = make()
    for bad in (object(), 2**70, Plane):
        agent.note = bad
        with pytest.raises(PayloadError, match=r"Plane: state field 'note'"):
            AgentType.of(Plane).dump(agent)
    del agent.note
    with pytest.raises(PayloadError, match="'note' was deleted: assign None"):
        AgentType.of(Plane).dump(agent)


def test_stored_state_that_does_not_fit_names_class_and_field() -> None:
    with pytest.raises(PayloadError, match=r"Plane: .*`\$\.count`"):
        AgentType.of(Plane).load(make(), msgspec.msgpack.encode({"count": "many"}))
    with pytest.raises(PayloadError, match="Plane"):
        AgentType.of(Plane).load(make(), b"\xc1")


def test_state_of_gives_the_values() -> None:
    agent = make()
    agent.extra = 1
    assert AgentType.of(Plane).state_of(agent)["seen"] is agent.seen
    assert "extra" not in AgentType.of(Plane).state_of(agent)


def test_constraints_hold_when_state_is_loaded() -> None:
    class Bounded(Agent):
        n: Annotated[int, msgspec.Meta(ge=0)] = 0

    with pytest.raises(PayloadError, match="n"):
        AgentType.of(Bounded).load(make(Bounded), msgspec.msgpack.encode({"n": -1}))


@pytest.mark.parametrize(
    ("namespace", "says"),
    [
        ({"__annotations__": {"x": int}}, "state field 'x' has no default: write `x: ... = ...`"),
        ({"__annotations__": {"x": "Missing"}, "x": 1}, "'Missing' is not defined"),
        ({"__annotations__": {"sender": str}, "sender": ""}, "'sender' is taken by Agent"),
        ({"__annotations__": {"id": str}, "id": ""}, "'id' is taken by Agent"),
        ({"__annotations__": {"x": list}, "x": [1]}, "default_factory"),
        ({"__annotations__": {"x": Any}, "x": object()}, "can't be stored"),
        ({"__annotations__": {"x": int}, "x": dataclasses.field()}, "give field() a default"),
        ({"__init__": lambda self: None}, "it defines __init__"),
        ({"agent_type": "no/slash"}, "can't stand in an address"),
        ({"agent_type": "no space"}, "can't stand in an address"),
        ({"state_version": -1}, "state_version is -1"),
    ],
)
def test_bad_declarations_are_found_when_the_class_is_made(namespace: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidAgent, match="agent class Bad: ") as caught:
        type("Bad", (Agent,), namespace)
    assert says in str(caught.value)


def test_names_hooks_and_versions() -> None:
    class Named(Agent):
        agent_type = "shop.Cart"
        state_version = 3

        async def on_activate(self) -> None: ...

    class Child(Named):
        def on_passivate(self) -> None: ...

    named, child = AgentType.of(Named), AgentType.of(Child)
    assert (named.name, named.state_version, named.has_activate, named.has_passivate) == ("shop.Cart", 3, True, False)
    assert (child.name, child.state_version, child.has_activate, child.has_passivate) == ("Child", 3, True, True)


def test_of_refuses_what_is_no_agent_class() -> None:
    bad: Any
    for bad in (int, Agent, make()):
        with pytest.raises(InvalidAgent, match=r"no subclass of rookery\.Agent"):
            AgentType.of(bad)


def test_registry() -> None:
    registry = Registry()
    assert registry.add(Plane) is registry.add(Plane) is registry.get("Plane")
    registry.add(Jet)
    assert registry.names() == ("Jet", "Plane")
    with pytest.raises(UnknownAgentType, match="types are Jet, Plane"):
        registry.get("Train")
    with pytest.raises(ConfigurationError, match="both agent type 'Plane'"):
        registry.add(type("Plane", (Agent,), {}))
    assert registry.get("Plane").cls is Plane
