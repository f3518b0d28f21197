# Writing envelopes in C; see `wire.py`.
from collections.abc import Mapping

def encode_body(
    sender: str,
    target: str,
    payload: bytes,
    timestamp: int,
    priority: int,
    id: str,  # noqa: A002 - the name of the field
    type: str,  # noqa: A002
    content_type: str,
    correlation_id: str = "",
    causation_id: str = "",
    reply_to: str = "",
    deadline: int = 0,
    schema_version: int = 0,
    headers: Mapping[str, str] | None = None,
) -> bytes: ...
def seal(body: bytes, source: int | None = None, sequence: int = 0) -> bytes: ...
def checksum(data: bytes | memoryview, *, by_table: bool = ...) -> int: ...
