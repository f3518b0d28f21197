"""Message bodies: which Python values travel, as what, and how a handler's annotation reads them back.

application/json          builtins, dataclasses, msgspec Structs, pydantic models
application/x-protobuf    Protobuf messages
application/octet-stream  bytes
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import msgspec
from google.protobuf import json_format
from google.protobuf.message import Message

from rookery.schemas.envelope import JSON
from rookery.schemas.errors import PayloadError

__all__ = ["JSON", "OCTETS", "PROTOBUF", "Decoder", "decoder_for", "encode"]

PROTOBUF = "application/x-protobuf"
OCTETS = "application/octet-stream"

# From payload and content type to the value that a handler gets.
Decoder = Callable[[bytes, str], Any]

_to_json = msgspec.json.Encoder().encode


def encode(message: object) -> tuple[str, str, bytes]:
    """Turn a message into (type name, content type, payload).

    The type name is the class name; a dict may bring its own as the str "type". Raises PayloadError.
    """
    name, content_type, to_bytes = encoder_of(type(message))  # type: ignore[arg-type]  # classes are hashable
    if isinstance(message, dict) and isinstance(message.get("type"), str):
        name = message["type"]
    try:
        return name, content_type, to_bytes(message)
    except Exception as error:  # a model's own serializers may raise anything
        raise PayloadError(f"can't be encoded: {error}", name) from error


def plain(value: object) -> Any:
    """What is in a Protobuf message or a Pydantic model, the same in every process; None of anything else."""
    if isinstance(value, Message):
        return value.SerializeToString(deterministic=True)
    if _is_pydantic(type(value)):
        return value.model_dump()  # type: ignore[attr-defined]
    return None


@lru_cache(maxsize=4_096)
def encoder_of(cls: type) -> tuple[str, str, Callable[[Any], bytes]]:
    """Type name, content type, and what makes the payload, for messages of a class."""
    if issubclass(cls, bytes | bytearray | memoryview):
        return "bytes", OCTETS, bytes
    if issubclass(cls, Message):
        return cls.__name__, PROTOBUF, cls.SerializeToString
    if _is_pydantic(cls):
        return cls.__name__, JSON, lambda model: model.model_dump_json().encode()
    return cls.__name__, JSON, _to_json


def decoder_for(annotation: Any) -> Decoder:
    """Compile the decoder of what a handler declares: Any, bytes, or a type that `encode` takes.

    Raises PayloadError if no payload can become that; the decoder raises PayloadError if this one can't.
    """
    name = getattr(annotation, "__name__", None) or str(annotation)
    if annotation in (Any, object, inspect.Parameter.empty):
        read = {JSON: _compile(Any, name), OCTETS: bytes}
    elif annotation in (bytes, bytearray, memoryview):
        return lambda payload, content_type: annotation(payload)
    elif isinstance(annotation, type) and issubclass(annotation, Message):
        parse = annotation.FromString
        read = {PROTOBUF: parse, JSON: lambda payload: json_format.Parse(payload, annotation())}
    elif isinstance(annotation, type) and _is_pydantic(annotation):
        read = {JSON: annotation.model_validate_json}  # type: ignore[attr-defined]
    else:
        read = {JSON: _compile(annotation, name)}
    known = ", ".join(read)

    def decode(payload: bytes, content_type: str) -> Any:
        reader = read.get(content_type) or read.get(content_type.partition(";")[0].strip().lower())
        if reader is None:
            raise PayloadError(f"its content type is {content_type!r}, the handler reads {known}", name)
        try:
            return reader(payload)
        except Exception as error:  # what a model's own validators raise, and a nesting too deep
            raise PayloadError(str(error) or type(error).__name__, name) from error

    # For the compiled turn, which reads with them itself.
    decode.readers, decode.name = read, name  # type: ignore[attr-defined]
    return decode


def _compile(annotation: Any, name: str) -> Callable[[bytes], Any]:
    """A JSON decoder for one annotation; raises PayloadError if msgspec can't make values of it."""
    try:
        kind = msgspec.inspect.type_info(annotation)
        decode = msgspec.json.Decoder(annotation).decode
    except (TypeError, NameError, ValueError, NotImplementedError) as error:
        raise PayloadError(str(error), name) from error
    if isinstance(kind, msgspec.inspect.CustomType):
        raise PayloadError(
            "JSON can't become it: use a dataclass, a msgspec.Struct, a pydantic or Protobuf model", name
        )
    return decode


def _is_pydantic(cls: type) -> bool:
    # Whoever has a model has imported pydantic; whoever hasn't need not pay for it.
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and issubclass(cls, pydantic.BaseModel)
