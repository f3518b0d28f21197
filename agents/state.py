"""State: the declared attributes of an agent, as they are stored.

State is what a class declares with an annotation and a default. Everything else on an agent is transient: it is gone
when the agent leaves memory. Stored state is a msgpack map from name to value, so fields can be added (they get their
default) and removed (they are ignored) between versions.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable
from operator import itemgetter
from typing import Any, ClassVar

import msgspec

from rookery.agents import guard
from rookery.schemas.errors import InvalidAgent, PayloadError

# What msgspec raises for a value it can't encode: an unknown class, an int beyond 64 bits, a lone surrogate, a cycle.
_UNENCODABLE = (TypeError, ValueError, OverflowError, RecursionError)


class StateSchema:
    """The state of one agent class, compiled: defaults, encoder, decoder."""

    __slots__ = ("_values", "agent_type", "encode", "fields", "parse", "struct")

    def __init__(self, cls: type, root: type) -> None:
        """Read the declarations of `cls`, whose framework base is `root`; raises InvalidAgent."""
        self.agent_type = cls.__name__
        hints = _declared(cls, root)
        self.fields = tuple(hints)
        fields = [(name, hint, _default(cls, name)) for name, hint in hints.items()]
        try:
            self.struct = msgspec.defstruct(f"{cls.__name__}State", [*fields, guard.FIELD])
            self.encode = msgspec.msgpack.Encoder().encode
            self.parse = msgspec.msgpack.Decoder(self.struct).decode
            self._values = _values_of(self.fields)
            self.encode(self.struct())
        except _UNENCODABLE as error:
            raise InvalidAgent(
                cls.__name__,
                f"its state can't be stored: {error}; use builtins, dataclasses or msgspec Structs, and "
                "`dataclasses.field(default_factory=...)` for a default that is mutable and not empty",
            ) from error

    def decode(self, data: bytes | None) -> msgspec.Struct:
        """The stored state as a struct, or the defaults for None; raises PayloadError naming class and field."""
        if data is None:
            return self.struct()
        try:
            return self.parse(data)
        except msgspec.DecodeError as error:
            raise PayloadError(f"stored state doesn't fit the class: {error}", self.agent_type) from error

    def fill(self, attributes: dict[str, Any], data: bytes | None) -> None:
        """Set the declared attributes to the stored state, or to the defaults for None."""
        attributes.update(msgspec.structs.asdict(self.decode(data)))
        if attributes[guard.ATTRIBUTE] is msgspec.UNSET:
            del attributes[guard.ATTRIBUTE]

    def dump(self, agent: Any) -> bytes:
        """The declared attributes as bytes; raises PayloadError naming class and field."""
        attributes = agent.__dict__
        # Building a struct and encoding it takes half the time of building and encoding a dict.
        try:
            if guard.ATTRIBUTE in attributes:
                return self.encode(self.struct(*self._values(attributes), attributes[guard.ATTRIBUTE]))
            return self.encode(self.struct(*self._values(attributes)))
        except KeyError as error:
            raise PayloadError(
                f"state field {error.args[0]!r} was deleted: assign None instead", self.agent_type
            ) from None
        except _UNENCODABLE as error:
            raise PayloadError(self._culprit(attributes, error), self.agent_type) from error

    def values(self, attributes: dict[str, Any]) -> dict[str, Any]:
        """The declared attributes by name; values are not copied."""
        return {name: attributes[name] for name in self.fields}

    def _culprit(self, attributes: dict[str, Any], error: Exception) -> str:
        for name in self.fields:
            try:
                self.encode(attributes[name])
            except _UNENCODABLE as reason:
                return f"state field {name!r} can't be stored: {reason}"
        return f"state can't be stored: {error}"


def _declared(cls: type, root: type) -> dict[str, Any]:
    """The annotated public names of the class and its bases, bases first, with resolved annotations."""
    own = [base for base in reversed(cls.__mro__) if base not in root.__mro__]
    try:
        names = [name for base in own for name in inspect.get_annotations(base)]
        hints = typing.get_type_hints(cls, include_extras=True) if names else {}
    except (NameError, AttributeError, TypeError, SyntaxError) as error:
        raise InvalidAgent(
            cls.__name__, f"an annotation of its state can't be resolved ({error}): import or define it above the class"
        ) from error
    declared: dict[str, Any] = {}
    for name in names:
        hint = hints[name]
        if name.startswith("_") or hint is ClassVar or typing.get_origin(hint) is ClassVar:
            continue
        if hasattr(root, name):
            raise InvalidAgent(
                cls.__name__, f"the name {name!r} is taken by Agent itself: call the field something else"
            )
        if not hasattr(cls, name):
            raise InvalidAgent(cls.__name__, f"state field {name!r} has no default: write `{name}: ... = ...`")
        declared[name] = hint
    return declared


def _default(cls: type, name: str) -> Any:
    """The default of a field as msgspec takes it; dataclasses.field() is what most people know by heart."""
    default = getattr(cls, name)
    if not isinstance(default, dataclasses.Field):
        return default
    if default.default_factory is not dataclasses.MISSING:
        return msgspec.field(default_factory=default.default_factory)
    if default.default is not dataclasses.MISSING:
        return default.default
    raise InvalidAgent(
        cls.__name__, f"state field {name!r} has no default: give field() a default or a default_factory"
    )


def _values_of(fields: tuple[str, ...]) -> Callable[[dict[str, Any]], tuple[Any, ...]]:
    if len(fields) > 1:
        return itemgetter(*fields)
    if fields:
        (name,) = fields
        return lambda attributes: (attributes[name],)
    return lambda attributes: ()
