"""Reading a stretch of one partition from the broker: what recovery does, outside any consumer group.

The end of a stretch is decided by the consumer's position, never by the last offset seen: compaction leaves holes, and
the record at `stop - 1` may be gone.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from rookery.schemas.errors import RookeryError
from rookery.streams.kafka.fetched import read_by_batches
from rookery.streams.log import OutsideJournal

log = logging.getLogger(__name__)

# One partition's share of a fetch: recovery is bound by throughput, and only READERS_MAX stretches are read at a time.
FETCH_BYTES = 4 * 1024 * 1024
# Records handed on at once: about 15 ms of decoding, so that the event loop stays responsive.
RECORDS_MAX = 5_000
READERS_MAX = 4
# A broker answers a request for what comes next after so long, and the next stretch of the same consumer waits for that
# answer; milliseconds.
WAIT_MS = 20
# The same for who follows partitions for ever.
FOLLOW_WAIT_MS = 500
STOP_TIMEOUT = 5.0  # seconds to disconnect
POLL = 0.5  # seconds a poll waits before it looks at position and patience again


class ReadFailed(RookeryError):
    """A stretch of a partition can't be read to its end; recover again, the broker may need time."""

    reason = "read-failed"
    retriable = True

    def __init__(self, topic: str, partition: int, why: str) -> None:
        self.topic, self.partition, self.why = topic, partition, why
        super().__init__(f"{topic}-{partition} can't be read: {why}; check the brokers' health, then recover again")


class Readers:
    """A few groupless consumers, made when needed and kept for the next stretch; `patience` is seconds without
    progress after which a read fails."""

    def __init__(self, client_kwargs: Mapping[str, Any], patience: float) -> None:
        self._client_kwargs = client_kwargs
        self._patience = patience
        self._idle: list[AIOKafkaConsumer] = []
        self._slots = asyncio.Semaphore(READERS_MAX)

    async def close(self) -> None:
        """Stop the idle consumers; a read that is under way stops its own."""
        idle, self._idle = self._idle, []
        await asyncio.gather(*(stop_consumer(consumer, STOP_TIMEOUT) for consumer in idle))

    async def read(self, topic: str, partition: int, start: int, stop: int) -> AsyncGenerator[Sequence[Any]]:
        """Yield non-empty batches of the records in [start, stop), what retention deleted left out.

        Raises ReadFailed when there is no progress, or the log ends before `start`.
        """
        if start >= stop:
            return
        async with self._slots:
            consumer = self._idle.pop() if self._idle else await self._open(WAIT_MS)
            finished = False
            try:
                async for records in self._stretch(consumer, TopicPartition(topic, partition), start, stop):
                    yield records
                finished = True
            except (KafkaError, TimeoutError) as error:
                raise ReadFailed(topic, partition, f"{type(error).__name__}: {error}") from error
            finally:
                if finished:
                    consumer.assign([])
                    self._idle.append(consumer)
                else:
                    await stop_consumer(consumer, STOP_TIMEOUT)

    async def follow(
        self, topic: str, offsets: Mapping[int, int]
    ) -> AsyncGenerator[tuple[int, Sequence[Any], int, int]]:
        """Follow partitions for ever, with a consumer of its own: yield partition, records, position and end.

        Raises OutsideJournal, ReadFailed.
        """
        tps = [TopicPartition(topic, partition) for partition in offsets]
        told: dict[TopicPartition, tuple[int, int]] = {}
        consumer = await self._open(FOLLOW_WAIT_MS)
        try:
            consumer.assign(tps)
            for tp in tps:
                consumer.seek(tp, offsets[tp.partition])
            while True:
                fetched = await _poll(consumer)
                for tp in tps:
                    position, end = await consumer.position(tp), consumer.highwater(tp)
                    if end is not None and told.get(tp) != (position, end):
                        told[tp] = position, end
                        yield tp.partition, fetched.get(tp, ()), position, end
        except OffsetOutOfRangeError as error:
            ((tp, position),) = list(error.args[0].items())[:1]
            start = (await consumer.beginning_offsets([tp]))[tp]
            raise OutsideJournal(tp.partition, position, start) from error
        except KafkaError as error:
            raise ReadFailed(topic, min(offsets), f"{type(error).__name__}: {error}") from error
        finally:
            await stop_consumer(consumer, STOP_TIMEOUT)

    async def _open(self, wait_ms: int) -> AIOKafkaConsumer:
        consumer = AIOKafkaConsumer(
            **self._client_kwargs,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            max_partition_fetch_bytes=FETCH_BYTES,
            fetch_max_wait_ms=wait_ms,
            request_timeout_ms=int(self._patience * 1000),
            retry_backoff_ms=50,
        )
        await consumer.start()
        return consumer

    async def _stretch(
        self, consumer: AIOKafkaConsumer, tp: TopicPartition, start: int, stop: int
    ) -> AsyncGenerator[Sequence[Any]]:
        loop = asyncio.get_running_loop()
        consumer.assign([tp])
        consumer.seek(tp, start)
        position, progress_at = start, loop.time()
        while position < stop:
            try:
                fetched = await _poll(consumer)
            except OffsetOutOfRangeError:
                consumer.seek(tp, await self._log_start(consumer, tp, position))
                continue
            records = fetched.get(tp)
            if records:
                yield records if records[-1].offset < stop else [r for r in records if r.offset < stop]
            before, position = position, await consumer.position(tp)
            if position > before:
                progress_at = loop.time()
            elif loop.time() - progress_at > self._patience:
                raise TimeoutError(f"no progress at offset {position} of {stop} for {self._patience:g} s")

    async def _log_start(self, consumer: AIOKafkaConsumer, tp: TopicPartition, position: int) -> int:
        start: int = (await consumer.beginning_offsets([tp]))[tp]
        if start <= position:
            raise ReadFailed(tp.topic, tp.partition, f"the log ends before offset {position}: was the topic recreated?")
        return start


async def _poll(consumer: AIOKafkaConsumer) -> dict[TopicPartition, Sequence[Any]]:
    """What was fetched of the assigned partitions, within POLL seconds."""
    if not (fetched := await _take(consumer)):
        waiter = consumer._fetcher._create_fetch_waiter()
        await asyncio.wait([waiter], timeout=POLL)
        if waiter.done():
            waiter.result()  # a consumer that may not read says so here
            fetched = await _take(consumer)
        else:
            waiter.cancel()
    return fetched


async def _take(consumer: AIOKafkaConsumer) -> dict[TopicPartition, Sequence[Any]]:
    read_by_batches(consumer)
    fetched: dict[TopicPartition, Sequence[Any]] = await consumer.getmany(timeout_ms=0, max_records=RECORDS_MAX)
    return fetched


async def stop_consumer(consumer: AIOKafkaConsumer, timeout: float) -> None:
    """Stop within about `timeout` seconds.

    aiokafka's fetch task swallows a cancellation that meets it while it gives up an assignment, and `stop` then waits
    for ever; a second one it heeds. And when a broker has gone, `stop` ends with the error or the cancellation of one
    of its tasks: of no account any more, but it would end Faust's thread without a word to those who wait for it.
    """
    stopping = asyncio.create_task(consumer.stop())
    done, _ = await asyncio.wait({stopping}, timeout=timeout)
    if not done:
        stopping.cancel()
        await asyncio.wait({stopping}, timeout=1.0)
    if not stopping.done() or stopping.cancelled() or stopping.exception() is not None:
        log.info("disconnected without saying goodbye")
        await consumer._client.close()
