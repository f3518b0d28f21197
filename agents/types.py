"""Agent classes as the engine sees them: name, handlers, state, hooks, compiled once when the class is made."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from rookery.agents.errors import SpawnRefused
from rookery.agents.handlers import BoundHandler, collect
from rookery.agents.state import StateSchema
from rookery.agents.supervision import Supervision
from rookery.schemas import address, payload
from rookery.schemas.envelope import JSON
from rookery.schemas.errors import (
    ConfigurationError,
    InvalidAddress,
    InvalidAgent,
    PayloadError,
    UnknownAgentType,
    UnknownHandler,
)
from rookery.schemas.journal import encode_agent
from rookery.schemas.system import PREFIX

if TYPE_CHECKING:
    from rookery.agents.agent import Agent
    from rookery.agents.effects import TurnContext


class AgentType:
    """One agent class, compiled.

    `find(message_type)` gives the handler of a message, the catch-all, or None, as for all messages of Rookery itself.
    `dump(agent)` gives the declared attributes as bytes; raises PayloadError naming class and field.
    `record_head` in front of them makes the agent's record.
    """

    __slots__ = (
        "_on_spawn",
        "cls",
        "decode_state",
        "dump",
        "find",
        "has_activate",
        "has_passivate",
        "message_types",
        "name",
        "record_head",
        "schema",
        "state_version",
        "supervision",
        "timeout",
    )

    def __init__(self, cls: type[Agent], root: type[Agent]) -> None:
        """Compile `cls`, whose framework base is `root`; raises InvalidAgent."""
        self.cls = cls
        self.name = _name(cls)
        self.state_version = _state_version(cls)
        if cls.__init__ is not root.__init__:
            raise InvalidAgent(
                cls.__name__, "it defines __init__: declare state with defaults, prepare the rest in on_activate"
            )
        by_type, catch_all = collect(cls)
        self.message_types = tuple(by_type)
        self.find: Callable[[str], BoundHandler | None] = by_type.get
        if catch_all is not None:
            self.find = lambda message_type: by_type.get(
                message_type, None if message_type.startswith(PREFIX) else catch_all
            )
        self.schema = StateSchema(cls, root)
        self.decode_state = self.schema.decode
        self.dump = self.schema.dump
        self.record_head = encode_agent(self.name, self.state_version, 0, b"")
        self._on_spawn = _OnSpawn(cls, root, self.name)
        self.supervision: Supervision = cls.supervision
        if not isinstance(self.supervision, Supervision):
            raise InvalidAgent(
                cls.__name__, "its supervision is no Supervision: write `supervision = Supervision(...)`"
            )
        self.supervision.check(cls.__name__)
        self.timeout = self.supervision.timeout
        self.has_activate = cls.on_activate is not root.on_activate
        self.has_passivate = cls.on_passivate is not root.on_passivate

    @staticmethod
    def of(agent_class: type[Agent]) -> AgentType:
        """The compiled form of an agent class; raises InvalidAgent for anything else."""
        compiled = getattr(agent_class, "__rookery_type__", None)
        if not isinstance(compiled, AgentType) or compiled.cls is not agent_class:
            raise InvalidAgent(
                getattr(agent_class, "__name__", repr(agent_class)), "it is no subclass of rookery.Agent"
            )
        return compiled

    def __repr__(self) -> str:
        return f"<AgentType {self.name}>"

    def create(self, context: TurnContext) -> Agent:
        """A fresh agent with default state at the address of its context."""
        agent = self.cls(context)
        self.schema.fill(agent.__dict__, None)
        return agent

    def load(self, agent: Agent, state: bytes | None) -> None:
        """Set the declared attributes from stored state: missing ones get their default, unknown ones are ignored.

        None sets the defaults. Raises PayloadError naming class and field if the state doesn't fit the class.
        """
        self.schema.fill(agent.__dict__, state)

    def state_of(self, agent: Agent) -> dict[str, Any]:
        """The declared attributes by name; the values are the agent's own: encode them before it goes on."""
        return self.schema.values(agent.__dict__)

    def state_in(self, record: bytes) -> bytes:
        """The encoded state in a record of this type."""
        return record[len(self.record_head) :]

    def unknown_handler(self, message_type: str) -> UnknownHandler:
        """The error to use when `find` gave None."""
        return UnknownHandler(self.name, message_type, self.message_types)

    def encode_spawn(self, args: Sequence[Any]) -> list[msgspec.Raw]:
        """The arguments of on_spawn as JSON; raises SpawnRefused if they don't fit its signature."""
        return self._on_spawn.encode(args)

    def decode_spawn(self, args: Sequence[msgspec.Raw]) -> list[Any]:
        """The arguments of on_spawn, each as its annotation says; raises SpawnRefused."""
        return self._on_spawn.decode(args)


class Registry:
    """The agent types of one application or kit, by name."""

    __slots__ = ("_types",)

    def __init__(self) -> None:
        self._types: dict[str, AgentType] = {}

    def add(self, cls: type[Agent]) -> AgentType:
        """Register a class; doing so twice is fine, two classes of one name raise ConfigurationError."""
        added = AgentType.of(cls)
        known = self._types.setdefault(added.name, added)
        if known is not added:
            first, second = (f"{of.__module__}.{of.__qualname__}" for of in (known.cls, cls))
            raise ConfigurationError(
                f"{first} and {second} are both agent type {added.name!r}: "
                'give one of them `agent_type = "AnotherName"`'
            )
        return added

    def get(self, name: str) -> AgentType:
        """The type of this name; raises UnknownAgentType saying which are known."""
        try:
            return self._types[name]
        except KeyError:
            raise UnknownAgentType(name, self._types) from None

    def names(self) -> tuple[str, ...]:
        """The names of all types, sorted."""
        return tuple(sorted(self._types))


class _OnSpawn:
    """The signature of a class's on_spawn: checks arguments where they are given, types them where they arrive."""

    __slots__ = ("_agent_type", "_decoders", "_rest", "_signature")

    def __init__(self, cls: type[Agent], root: type[Agent], agent_type: str) -> None:
        self._agent_type = agent_type
        self._signature = inspect.Signature()
        self._decoders: list[Callable[[bytes, str], Any]] = []
        self._rest = payload.decoder_for(Any)
        if cls.on_spawn is root.on_spawn:
            return
        try:
            parameters = list(inspect.signature(cls.on_spawn).parameters.values())[1:]
            hints = typing.get_type_hints(cls.on_spawn)
            self._signature = inspect.Signature(parameters)
            for parameter in parameters:
                decode = payload.decoder_for(hints.get(parameter.name, Any))
                if parameter.kind is parameter.VAR_POSITIONAL:
                    self._rest = decode
                elif parameter.kind is not parameter.VAR_KEYWORD:
                    self._decoders.append(decode)
        except (NameError, AttributeError, TypeError, ValueError) as error:
            raise InvalidAgent(cls.__name__, f"the signature of on_spawn can't be used: {error}") from error

    def check(self, args: Sequence[Any]) -> None:
        try:
            self._signature.bind(*args)
        except TypeError as error:
            raise SpawnRefused(self._agent_type, str(error)) from None

    def encode(self, args: Sequence[Any]) -> list[msgspec.Raw]:
        self.check(args)
        encoded = []
        for position, arg in enumerate(args, start=1):
            try:
                _, content_type, data = payload.encode(arg)
            except PayloadError as error:
                raise SpawnRefused(self._agent_type, f"argument {position}: {error}") from error
            if content_type != JSON:
                raise SpawnRefused(self._agent_type, f"argument {position} has no JSON form: send it in a message")
            encoded.append(msgspec.Raw(data))
        return encoded

    def decode(self, args: Sequence[msgspec.Raw]) -> list[Any]:
        self.check(args)
        decoders = self._decoders + [self._rest] * (len(args) - len(self._decoders))
        try:
            return [decode(bytes(arg), JSON) for decode, arg in zip(decoders, args, strict=False)]
        except PayloadError as error:
            raise SpawnRefused(self._agent_type, str(error)) from error


def _name(cls: type) -> str:
    # Not inherited: a subclass is a type of its own.
    name = vars(cls).get("agent_type", cls.__name__)
    if name == address.NATS_TYPE:
        raise InvalidAgent(cls.__name__, f"agent_type {name!r} stands for subjects of NATS: take another one")
    try:
        if address.parse(f"{name}/key")[0] == name:
            return str(name)
    except InvalidAddress:
        pass
    raise InvalidAgent(cls.__name__, f"agent_type {name!r} can't stand in an address: write identifiers joined by dots")


def _state_version(cls: type) -> int:
    version = getattr(cls, "state_version", 0)
    if not isinstance(version, int) or not 0 <= version < 65_536:
        raise InvalidAgent(cls.__name__, f"state_version is {version!r}: write a number from 0 to 65,535")
    return version
