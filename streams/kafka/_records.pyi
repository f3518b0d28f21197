from collections.abc import Iterable, Sequence

from rookery.streams.core._fetched import FetchedRecord

def crc32c(data: bytes | bytearray, *, by_table: bool = ...) -> int: ...
def encode_batch(
    records: Iterable[tuple[bytes | None, bytes | None]],
    headers: Sequence[tuple[str, bytes | None]],
    timestamp: int,
    producer_id: int,
    epoch: int,
    sequence: int,
) -> tuple[bytearray, int]: ...
def decode_batch(data: bytes, at: int, position: int, check: bool) -> list[FetchedRecord]: ...
