"""Topic ids: what tells a topic from one that was deleted and made again under the same name.

Brokers give every topic an id of its own (KIP-516, Metadata from version 10 on); aiokafka asks in older versions that
leave it out. A recreated topic looks like the old one in every other respect once it has grown past the old positions.
"""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

from aiokafka.errors import (
    IncompatibleBrokerVersion,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Boolean, CompactArray, CompactString, Int16, Int32, Schema, TaggedFields

from rookery.schemas.errors import IncompatibleVersion

ID_BYTES = 16
_METADATA, _VERSION = 3, 12


class _Uuid(AbstractType[bytes]):  # type: ignore[misc]  # aiokafka ships no types
    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def decode(cls, data: BytesIO) -> bytes:
        return data.read(ID_BYTES)


class _TopicIdsResponse(Response):  # type: ignore[misc]
    API_KEY = _METADATA
    API_VERSION = _VERSION
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32), ("host", CompactString()), ("port", Int32), ("rack", CompactString()),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString()),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16), ("topic", CompactString()), ("topic_id", _Uuid), ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16), ("partition", Int32), ("leader", Int32), ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)), ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)), ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32), ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )  # fmt: skip


class _TopicIdsRequestStruct(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY = _METADATA
    API_VERSION = _VERSION
    RESPONSE_TYPE = _TopicIdsResponse
    SCHEMA = Schema(
        ("topics", CompactArray(("topic_id", _Uuid), ("topic", CompactString()), ("tags", TaggedFields))),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class _TopicIdsRequest(Request[_TopicIdsRequestStruct]):  # type: ignore[misc]
    API_KEY = _METADATA

    def __init__(self, names: Sequence[str], permissions: bool) -> None:
        self._names = names
        self._permissions = permissions

    def build(self, request_struct_class: type[_TopicIdsRequestStruct]) -> _TopicIdsRequestStruct:
        asked: list[tuple[bytes, str, dict[int, bytes]]] = [(bytes(ID_BYTES), name, {}) for name in self._names]
        return request_struct_class(asked, False, self._permissions, {})


async def topic_ids(client: Any, names: Sequence[str]) -> list[tuple[bytes, int]]:
    """(id, count of partitions) of each topic, in order, asked from a broker now; `client` is an AIOKafkaClient.

    Raises UnknownTopicOrPartitionError, IncompatibleVersion for brokers before Kafka 3.1, or another KafkaError.
    """
    found: dict[str, tuple[bytes, int]] = {}
    for code, name, topic_id, _, partitions, _, _ in await _ask(client, names):
        if code:
            raise for_code(code)(name)
        found[name] = topic_id, len(partitions)
    if missing := [name for name in names if name not in found]:
        raise UnknownTopicOrPartitionError(missing[0])
    return [found[name] for name in names]


async def permitted(client: Any, names: Sequence[str]) -> dict[str, int]:
    """What we may do with each topic that exists: bit n stands for Kafka's operation n. Raises as `topic_ids`."""
    found: dict[str, int] = {}
    for code, name, _, _, _, operations, _ in await _ask(client, names, permissions=True):
        if code == TopicAuthorizationFailedError.errno:
            found[name] = 0
        elif not code:
            found[name] = operations
    return found


async def _ask(client: Any, names: Sequence[str], *, permissions: bool = False) -> Sequence[Any]:
    try:
        response = await client.send(client.get_random_node(), _TopicIdsRequest(names, permissions))
    except (IncompatibleBrokerVersion, NotImplementedError):
        raise IncompatibleVersion(
            "the Kafka broker", "one that does not tell topic ids", "Kafka 3.1 or newer"
        ) from None
    topics: Sequence[Any] = response.topics
    return topics
