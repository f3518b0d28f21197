"""Handlers: how a message finds the method that handles it.

`@handler` takes the type name of a message from the annotation of the method's message parameter; `@handler("PING")`
names it. Everything that can be wrong about a handler is found when its class is made, so a worker that has started
has no broken handler.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FunctionType, UnionType
from typing import Any, TypeVar, overload

from rookery.schemas import payload
from rookery.schemas.errors import InvalidAgent, PayloadError
from rookery.schemas.system import PREFIX

_MARK = "__rookery_handler__"
_CATCH_ALL = (Any, object, dict, Mapping)

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class BoundHandler:
    """One handler of one agent class: call `function(agent, decode(payload, content_type))`.

    The result of `function` is the reply, or a coroutine of it. `message_type` is None for the catch-all.
    """

    method: str
    message_type: str | None
    function: Callable[[Any, Any], Any]
    decode: Callable[[bytes, str], Any]


@overload
def handler(method_or_name: F, /) -> F: ...
@overload
def handler(method_or_name: str, /) -> Callable[[F], F]: ...
def handler(method_or_name: Any, /) -> Any:
    """Mark a method as a handler, of the message class in its annotation, or of the message type that is named.

    `msg: dict` or `msg: Any` without a name makes the catch-all: it gets every message that no other handler takes.
    Plain and `async` methods are allowed; what they return is the reply, if one was asked for.
    """
    if isinstance(method_or_name, str):
        return lambda method: _mark(method, method_or_name)
    return _mark(method_or_name, None)


def _mark(method: Any, name: str | None) -> Any:
    if not isinstance(method, FunctionType):
        raise InvalidAgent("?", f"@handler marks methods, not {method!r}: write it right above `async def`")
    setattr(method, _MARK, name)
    return method


def collect(cls: type) -> tuple[dict[str, BoundHandler], BoundHandler | None]:
    """The handlers of an agent class and its bases by message type, and its catch-all; raises InvalidAgent."""
    marks: dict[str, str | None] = {}
    for base in reversed(cls.__mro__):
        for attribute, value in vars(base).items():
            function = value.__func__ if isinstance(value, staticmethod | classmethod) else value
            if isinstance(function, FunctionType) and hasattr(function, _MARK):
                marks[attribute] = getattr(function, _MARK)
    by_type: dict[str, BoundHandler] = {}
    catch_all: BoundHandler | None = None
    for attribute, name in marks.items():
        bound = _bind(cls, attribute, name)
        taken = catch_all if bound.message_type is None else by_type.get(bound.message_type)
        if taken is not None:
            what = f"messages of type {bound.message_type!r}" if bound.message_type else "every other message"
            raise InvalidAgent(
                cls.__name__, f"{taken.method} and {attribute} both handle {what}: keep one, or override {taken.method}"
            )
        if bound.message_type is None:
            catch_all = bound
        else:
            by_type[bound.message_type] = bound
    return by_type, catch_all


def _bind(cls: type, attribute: str, name: str | None) -> BoundHandler:
    function = inspect.getattr_static(cls, attribute)
    if not isinstance(function, FunctionType):
        raise InvalidAgent(cls.__name__, f"handler {attribute} is {function!r}: it must be a method with self")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise InvalidAgent(cls.__name__, f"handler {attribute} yields: return the reply, and send what else there is")
    annotation = _message_annotation(cls, function, attribute, named=name is not None)
    message_type = name if name is not None else _type_name(cls, attribute, annotation)
    if message_type is not None and (not message_type or message_type.startswith(PREFIX)):
        raise InvalidAgent(
            cls.__name__, f"handler {attribute} can't handle {message_type!r}: names are not empty, {PREFIX}* is ours"
        )
    try:
        decode = payload.decoder_for(annotation)
    except (PayloadError, TypeError) as error:
        raise InvalidAgent(
            cls.__name__, f"handler {attribute}: no message can be read as {annotation}: {error}"
        ) from error
    return BoundHandler(attribute, message_type, function, decode)


def _message_annotation(cls: type, function: FunctionType, attribute: str, *, named: bool) -> Any:
    try:
        parameters = list(inspect.signature(function).parameters.values())[1:]
        hints = typing.get_type_hints(function)
    except (NameError, AttributeError, TypeError, SyntaxError) as error:
        raise InvalidAgent(
            cls.__name__,
            f"the annotations of handler {attribute} can't be resolved ({error}): define or import the message classes "
            "in the module, above the agent class",
        ) from error
    write = f"write `async def {attribute}(self, msg: YourMessage)`"
    if not parameters or parameters[0].kind not in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        raise InvalidAgent(cls.__name__, f"handler {attribute} has no message parameter: {write}")
    for extra in parameters[1:]:
        if extra.default is extra.empty and extra.kind not in (extra.VAR_POSITIONAL, extra.VAR_KEYWORD):
            raise InvalidAgent(
                cls.__name__, f"handler {attribute} is called with one message, not {extra.name}: {write}"
            )
    annotation = hints.get(parameters[0].name, inspect.Parameter.empty)
    if annotation is not inspect.Parameter.empty:
        return annotation
    if named:
        return Any
    raise InvalidAgent(
        cls.__name__, f'handler {attribute} doesn\'t say what it handles: {write}, or `@handler("TYPE")` above it'
    )


def _type_name(cls: type, attribute: str, annotation: Any) -> str | None:
    """The type name that messages of the annotated class travel under; None for the annotations of a catch-all."""
    base = typing.get_origin(annotation) or annotation
    if base in _CATCH_ALL:
        return None
    if isinstance(base, type) and base not in (UnionType, typing.Union):
        return base.__name__
    raise InvalidAgent(
        cls.__name__,
        f"handler {attribute} is annotated with {annotation}, which is no class: write one handler for each message "
        'class, or name the type with `@handler("TYPE")`',
    )
