"""What aiokafka has fetched, read a batch at a time: its own way goes through a generator, an iterator and a copy into
a ConsumerRecord for each record, which takes longer than parsing it.

Everything else stays aiokafka's: which results there are, whether they are still wanted, and the position, which moves
as it does there. Batches without compression are parsed by `_records` where that is compiled, all others by aiokafka.
"""

from __future__ import annotations

import struct
import sys
import weakref
from inspect import GEN_CREATED, getgeneratorstate
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.memory_records import MemoryRecords

from rookery.schemas import native

_records = native.load("rookery.streams.kafka._records")
# Where in a record batch the length of what follows it begins and ends.
LENGTH_AT, LENGTH_END = 8, 12
_length = struct.Struct(">i").unpack_from


class KeptRecords(MemoryRecords):  # type: ignore[misc]
    """aiokafka's batches of one partition, with their bytes: its own class keeps them out of Python's reach."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.data = data
        self.start = self.end = 0  # of the batch that was given last

    def next_batch(self) -> Any:
        """The next batch, or None; raises CorruptRecordException."""
        batch = super().next_batch()
        if batch is not None:
            self.start = self.end
            self.end += LENGTH_END + _length(self.data, self.start + LENGTH_AT)[0]
        return batch


if _records is not None:
    # For every consumer of this process: what it does for the others is the same.
    fetcher.MemoryRecords = KeptRecords


class Unread:
    """The records of one fetch of one partition, in place of `PartitionRecords` and what iterates over it."""

    __slots__ = ("_after", "_fetched", "_left", "_result", "_taken_count")

    def __init__(self, result: Any, fetched: Any) -> None:
        self._result: Any = weakref.proxy(result)  # which holds our method
        self._fetched = fetched
        self._left: list[Any] = []  # the last batch read, unless all of it is taken
        self._taken_count = 0  # of them
        self._after: int = fetched.next_fetch_offset  # where to go on after the last batch read

    def take(self, max_records: int | None = None) -> list[Any]:
        """See `FetchResult.getall`: the next records, and fewer than that only from the last."""
        result, fetched = self._result, self._fetched
        if not result.check_assignment(result._topic_partition) or not result.has_more():
            return []
        records_max = sys.maxsize if max_records is None else max_records
        try:
            taken = self._take(records_max)
        except BaseException:
            # None of it was taken: nothing more comes from this result, and the partition is fetched again from where
            # it stands.
            fetched._records = MemoryRecords(b"")
            self._left, self._taken_count, self._after = [], 0, fetched.next_fetch_offset
            raise
        if len(taken) < records_max:
            fetched.next_fetch_offset = self._after
            result._update_position()
            result._partition_records = None
        else:
            fetched.next_fetch_offset = taken[-1].offset + 1
            result._update_position()
        return taken

    def _take(self, records_max: int) -> list[Any]:
        taken = self._left[self._taken_count : self._taken_count + records_max]
        self._taken_count += len(taken)
        if self._taken_count == len(self._left):
            self._left, self._taken_count = [], 0
        source = self._fetched._records
        while (room := records_max - len(taken)) > 0 and source.has_next():
            batch = source.next_batch()
            records = self._parse(batch)
            self._after = batch.next_offset
            if len(records) > room:
                self._left, self._taken_count = records, room
                records = records[:room]
            taken += records
        return taken

    def _parse(self, batch: Any) -> list[Any]:
        """The records of a batch from where the last one ended; none of a control batch."""
        source, position, check = self._fetched._records, self._after, self._fetched._check_crcs
        if batch.is_control_batch:
            _check_crc(batch, check)
            return []
        plain = type(batch) is DefaultRecordBatch and not batch.compression_type
        if plain and _records is not None and type(source) is KeptRecords:
            found: list[Any] = _records.decode_batch(source.data, source.start, position, check)
            return found
        _check_crc(batch, check)
        records = list(batch)
        # A fetch brings whole batches, so the first may begin before the position.
        return records if not records or records[0].offset >= position else [r for r in records if r.offset >= position]


def _check_crc(batch: Any, check: bool) -> None:
    if check and not batch.validate_crc():
        raise CorruptRecordException("the CRC is not that of the record batch")


def read_by_batches(consumer: AIOKafkaConsumer) -> None:
    """Have what was fetched so far, and nobody has taken from yet, read in this way: a record is then as it was parsed,
    and has all that we read."""
    for result in consumer._fetcher._records.values():
        fetched = getattr(result, "_partition_records", None)  # a FetchError has none
        if fetched is None or "getall" in vars(result):
            continue
        untouched = getgeneratorstate(fetched._records_iterator) == GEN_CREATED
        # What transactions wrote and took back, we don't filter.
        if untouched and fetched._isolation_level == fetcher.READ_UNCOMMITTED:
            # Also breaks a circle with the generator, which would keep the bytes until the garbage is collected. Who
            # should still iterate finds the end, and the partition is fetched again from where it stood.
            fetched._records_iterator = iter(())
            result.getall = Unread(result, fetched).take
        else:
            fetched._consumer_record = _as_parsed


def _as_parsed(tp: Any, record: Any) -> Any:
    return record
