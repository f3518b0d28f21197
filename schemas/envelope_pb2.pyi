# ruff: noqa
# mypy: ignore-errors
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Priority(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LOW: _ClassVar[Priority]
    NORMAL: _ClassVar[Priority]
    HIGH: _ClassVar[Priority]
LOW: Priority
NORMAL: Priority
HIGH: Priority

class Envelope(_message.Message):
    __slots__ = ("sender", "target", "payload", "timestamp", "priority", "id", "correlation_id", "causation_id", "reply_to", "type", "content_type", "deadline", "delivery", "headers", "crc32")
    class HeadersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SENDER_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    CORRELATION_ID_FIELD_NUMBER: _ClassVar[int]
    CAUSATION_ID_FIELD_NUMBER: _ClassVar[int]
    REPLY_TO_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    CRC32_FIELD_NUMBER: _ClassVar[int]
    sender: str
    target: str
    payload: bytes
    timestamp: int
    priority: Priority
    id: str
    correlation_id: str
    causation_id: str
    reply_to: str
    type: str
    content_type: str
    deadline: int
    delivery: Delivery
    headers: _containers.ScalarMap[str, str]
    crc32: int
    def __init__(self, sender: _Optional[str] = ..., target: _Optional[str] = ..., payload: _Optional[bytes] = ..., timestamp: _Optional[int] = ..., priority: _Optional[_Union[Priority, str]] = ..., id: _Optional[str] = ..., correlation_id: _Optional[str] = ..., causation_id: _Optional[str] = ..., reply_to: _Optional[str] = ..., type: _Optional[str] = ..., content_type: _Optional[str] = ..., deadline: _Optional[int] = ..., delivery: _Optional[_Union[Delivery, _Mapping]] = ..., headers: _Optional[_Mapping[str, str]] = ..., crc32: _Optional[int] = ...) -> None: ...

class Delivery(_message.Message):
    __slots__ = ("source", "sequence", "attempt", "schema_version")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    source: int
    sequence: int
    attempt: int
    schema_version: int
    def __init__(self, source: _Optional[int] = ..., sequence: _Optional[int] = ..., attempt: _Optional[int] = ..., schema_version: _Optional[int] = ...) -> None: ...

class DeadLetter(_message.Message):
    __slots__ = ("value", "key", "headers", "topic", "partition", "offset", "timestamp", "reason", "error", "traceback", "attempts", "target", "sender", "id", "type", "rookery_version", "app_id", "last_offset", "agent_type")
    class Header(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    VALUE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    TRACEBACK_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    ROOKERY_VERSION_FIELD_NUMBER: _ClassVar[int]
    APP_ID_FIELD_NUMBER: _ClassVar[int]
    LAST_OFFSET_FIELD_NUMBER: _ClassVar[int]
    AGENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    value: bytes
    key: bytes
    headers: _containers.RepeatedCompositeFieldContainer[DeadLetter.Header]
    topic: str
    partition: int
    offset: int
    timestamp: int
    reason: str
    error: str
    traceback: str
    attempts: int
    target: str
    sender: str
    id: str
    type: str
    rookery_version: str
    app_id: str
    last_offset: int
    agent_type: str
    def __init__(self, value: _Optional[bytes] = ..., key: _Optional[bytes] = ..., headers: _Optional[_Iterable[_Union[DeadLetter.Header, _Mapping]]] = ..., topic: _Optional[str] = ..., partition: _Optional[int] = ..., offset: _Optional[int] = ..., timestamp: _Optional[int] = ..., reason: _Optional[str] = ..., error: _Optional[str] = ..., traceback: _Optional[str] = ..., attempts: _Optional[int] = ..., target: _Optional[str] = ..., sender: _Optional[str] = ..., id: _Optional[str] = ..., type: _Optional[str] = ..., rookery_version: _Optional[str] = ..., app_id: _Optional[str] = ..., last_offset: _Optional[int] = ..., agent_type: _Optional[str] = ...) -> None: ...
