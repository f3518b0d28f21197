"""Faust's consumer with our fetch path: batches instead of messages, our offsets, a rebalance that waits for nobody.

Kept from Faust: the consumer service, its thread with the heartbeats, the assignor protocol, the commit timer, the
streams. Replaced: what happens for each message (`_drain_messages`), which offset is committed (`_new_offset`), where
fetching starts (`perform_seek`; the engine says so), and waiting for handlers (`wait_empty`).

A seek asked for by the engine is applied in the consumer's thread right before the next fetch, and whatever an earlier
fetch brings of that partition is dropped. So a gap that the engine sees twice was fetched twice: it is a hole in the
log and no race.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from faust.events import Event
from faust.transport.consumer import Fetcher as FaustFetcher
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, Message
from mode import Service
from mode.threads import QueueServiceThread

from rookery.schemas.envelope import Priority
from rookery.schemas.errors import ConfigurationError
from rookery.streams.engine.engine import Engine
from rookery.streams.kafka.assignor import NAME
from rookery.streams.kafka.fetched import read_by_batches
from rookery.streams.kafka.prefetch import hasten
from rookery.streams.kafka.reader import stop_consumer

if TYPE_CHECKING:
    from rookery.streams.kafka.app import App

# The last commit of offsets, and leaving the group: a broker that does not answer is not waited for; seconds.
COMMIT_TIMEOUT, LEAVE_TIMEOUT = 3.0, 5.0
# A fetch without records returns after this, seconds; a seek or the end of a pause waits for it at most.
FETCH_WAIT = 0.25
# While agents are ready to run, the next records are fetched only this often (seconds), and so many of each lane, HIGH
# first, unless as many wait there already: what waits stays small (and in the processor's cache), HIGH overtakes the
# backlog of the others, and LOW keeps its share. Once all of them run, fetching goes on at once.
BUSY_WAIT = 0.02
BUSY_RECORDS = {Priority.HIGH: 3_200, Priority.NORMAL: 1_200, Priority.LOW: 400}
# Partitions to fetch from, and the most records of all of them together.
Share = tuple[set[TP], int]


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """Runs aiokafka's consumer; knows when the group last confirmed this member."""

    confirmed_at: float = 0.0  # monotonic seconds of the start of the last heartbeat that was answered well

    async def on_start(self) -> None:
        """Watch the heartbeats of the coordinator, and see that nothing waits for empty partitions."""
        await super().on_start()
        consumer = self._ensure_consumer()
        hasten(consumer._fetcher)
        consumer._fetcher._fetch_max_bytes = cast("App", self.app).settings.fetch_bytes_max
        coordinator = consumer._coordinator
        in_use = [assignor.name for assignor in coordinator._assignors]
        if in_use != [NAME]:
            # Faust takes another one without a word when it finds no table.
            raise ConfigurationError(f"partitions would be assigned by {', '.join(in_use)} instead of {NAME}")
        beat = coordinator._do_heartbeat

        async def watched() -> bool:
            started = time.monotonic()
            confirmed: bool = await beat()
            if confirmed:
                self.confirmed_at = started
            return confirmed

        coordinator._do_heartbeat = watched
        rejoin = coordinator._do_rejoin_group

        async def undisturbed(subscription: Any) -> bool:
            async with coordinator._commit_lock:  # after the commit that is under way, and before any other
                done: bool = await rejoin(subscription)
                return done

        coordinator._do_rejoin_group = undisturbed

    def rejoin(self) -> None:
        """Ask the group to assign anew; from any thread."""
        self.thread_loop.call_soon_threadsafe(self._ensure_consumer()._coordinator.request_rejoin)

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        """Commit, but not while the group is joined anew: the answer to a commit of the old generation makes aiokafka
        give up the membership that it has just got, and as every member commits, the group would rebalance on and on.
        """
        if self._ensure_consumer()._coordinator._commit_lock.locked():
            return False
        done: bool = await super()._commit(offsets)
        return done

    async def on_thread_stop(self) -> None:
        """Leave the group; bounded, since aiokafka may wait for ever when a rebalance is under way."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_TIMEOUT):  # what is queued may wait for a broker that has gone
                await QueueServiceThread.on_thread_stop(self)
        if self._consumer is not None:
            await stop_consumer(self._consumer, LEAVE_TIMEOUT)

    async def fetch(self, seeks: Mapping[TP, int], shares: Sequence[Share], timeout: float) -> dict[TP, Any]:
        """Apply seeks, then fetch each share in turn, waiting up to `timeout` seconds if all have nothing; one call,
        so that nothing fetched before a seek can come after it, and since each costs both threads a switch."""
        result: dict[TP, Any] = await self.call_thread(self._seek_and_fetch, seeks, shares, timeout)
        return result

    async def _seek_and_fetch(self, seeks: Mapping[TP, int], shares: Sequence[Share], timeout: float) -> dict[TP, Any]:
        consumer = self._ensure_consumer()
        # One that moved away meanwhile is left out; the engine seeks again when it has its partitions.
        for tp in seeks.keys() & consumer.assignment():
            consumer.seek(tp, seeks[tp])
        fetched = await self._take(consumer, shares)
        if not fetched and timeout:
            waiter = consumer._fetcher._create_fetch_waiter()
            await asyncio.wait([waiter], timeout=timeout)
            if waiter.done():
                waiter.result()  # a consumer that may not read says so here
                fetched = await self._take(consumer, shares)
            else:
                waiter.cancel()
        return fetched

    async def _take(self, consumer: Any, shares: Sequence[Share]) -> dict[TP, Any]:
        fetched: dict[TP, Any] = {}
        read_by_batches(consumer)
        for active, records_max in shares:
            if active:  # aiokafka takes no partitions for all
                fetched |= await self._fetch_records(consumer, active, timeout=0.0, max_records=records_max)
        return fetched


class Consumer(driver.Consumer):
    """See the head of this module."""

    _thread: ConsumerThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Made by Faust."""
        super().__init__(*args, **kwargs)
        self._seeks: dict[TP, int] = {}  # asked for, not applied yet
        self._held: set[TP] = set()  # paused by the engine
        self._drained = False

    @property
    def _engine(self) -> Engine:
        return cast("App", self.app).engine

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    # -- the group, as the engine's log sees it (streams.kafka.log.Group) ---------------------------------------------

    def fetch_from(self, topic: str, partition: int, offset: int) -> None:
        """Fetch the partition from `offset` on."""
        self._seeks[TP(topic, partition)] = offset

    def pause(self, topic: str, partition: int) -> None:
        """Stop fetching the partition until `resume`, whatever rebalances do."""
        self._held.add(TP(topic, partition))
        self.pause_partitions({TP(topic, partition)})

    def resume(self, topic: str, partition: int) -> None:
        """Fetch the partition again."""
        self._held.discard(TP(topic, partition))
        if TP(topic, partition) in self.assignment():
            self.resume_partitions({TP(topic, partition)})

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        """Faust resumes everything after a rebalance: not what the engine holds."""
        super().resume_partitions(set(tps) - self._held)

    def rejoin(self) -> bool:
        """Ask the group to share out partitions anew; False while it does so already, or before it was joined."""
        if self.app.rebalancing or not self._thread.confirmed_at:
            return False
        self._thread.rejoin()
        return True

    async def confirm(self, topic: str, partition: int) -> bool:
        """Whether the group confirms, by a heartbeat that starts after this call, that the partition is still ours."""
        asked = time.monotonic()
        deadline = asked + self.app.conf.broker_session_timeout
        while time.monotonic() < deadline:
            if self._thread.confirmed_at > asked and not self.app.rebalancing:
                return TP(topic, partition) in self.assignment()
            await asyncio.sleep(self.app.conf.broker_heartbeat_interval / 4)
        return False

    # -- fetching -----------------------------------------------------------------------------------------------------

    async def _drain_messages(self, fetcher: Any) -> None:
        """Fetch for ever; each batch of a partition becomes one event in the stream of its processor."""
        try:
            while not (self.should_stop or fetcher.should_stop):
                if not self.flow_active:
                    await self.wait(self.can_resume_flow)  # type: ignore[arg-type]  # Faust's own is an asyncio.Event, too
                    continue
                if busy := self._engine.is_busy:
                    await self._engine.idle(BUSY_WAIT)
                    busy = self._engine.is_busy
                seeks = self._take_seeks()
                active = set(self._get_active_partitions())
                if not active and not seeks:
                    await asyncio.sleep(FETCH_WAIT)
                    continue
                if not busy:
                    shares = [(active, self.app.conf.broker_max_poll_records or 5_000)]
                    await self._fetch(seeks, shares, FETCH_WAIT)
                    continue
                inboxes, queue = self._engine.router.topics.inboxes, self._engine.queue
                shares = [
                    ({tp for tp in active if tp.topic == inboxes[lane]}, records_max)
                    for lane, records_max in BUSY_RECORDS.items()
                    if not queue.holds(lane, records_max)
                ]
                if seeks or shares:
                    await self._fetch(seeks, shares, 0.0)
        except self.consumer_stopped_errors:
            if not self.app.should_stop:
                raise

    async def _fetch(self, seeks: Mapping[TP, int], shares: Sequence[Share], timeout: float) -> None:
        """Fetch shares once, and hand on what no later seek has made stale."""
        fetched = await self._thread.fetch(seeks, shares, timeout)
        for tp, records in fetched.items():
            if tp not in self._seeks and self.flow_active:
                self._deliver(TP(tp.topic, tp.partition), records)

    def _take_seeks(self) -> dict[TP, int]:
        """The seeks that can be applied now; others wait until their partition is assigned."""
        assigned = self.assignment()
        seeks = {tp: offset for tp, offset in self._seeks.items() if tp in assigned}
        for tp in seeks:
            del self._seeks[tp]
        return seeks

    def _deliver(self, tp: TP, records: list[Any]) -> None:
        for channel in self.app.topics._tp_index.get(tp, ()):  # type: ignore[attr-defined]
            last = records[-1]
            message = Message(
                tp.topic, tp.partition, last.offset, 0.0, 0, None, None, None, None, tp=tp,
                generation_id=self.app.consumer_generation_id,
            )  # fmt: skip
            event = Event(self.app, None, records, {}, message)
            channel.queue.put_nowait(event)

    # -- offsets ------------------------------------------------------------------------------------------------------

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        inboxes = self._engine.router.topics.inboxes
        return (tp for tp in self.assignment() if tp.topic in inboxes)

    def _new_offset(self, tp: TP) -> int | None:
        return self._engine.committed(tp.partition, self._engine.router.topics.inboxes.index(tp.topic))

    async def perform_seek(self) -> None:
        """Where fetching starts is the engine's business: see `Engine.assigned`."""

    async def wait_empty(self) -> None:
        """Called before a rebalance and at the end: waits for nobody then, drains the engine now."""
        if not self.app.should_stop or self._drained or cast("App", self.app).engine_service.running is None:
            return
        self._drained = True
        if not await self._engine.drain(self._engine.settings.drain_timeout):
            self.log.warning("stopping with turns or messages in hand: the next owner takes them up")
        await self._commit_at_last()

    async def _commit_at_last(self) -> None:
        """Tell the group how far we came; bounded, as the journal knows better anyway: aiokafka asks a broker that has
        gone without an end, and Faust swallows a cancellation while it waits for an earlier commit."""
        for _ in range(2):  # the first may have waited for an earlier commit, with older offsets, and done nothing
            commit = asyncio.create_task(self.commit(), name="rookery-last-commit")
            done, _ = await asyncio.wait({commit}, timeout=COMMIT_TIMEOUT)
            if not done:
                commit.cancel()
                self.log.warning("the group did not take the last offsets within %g s", COMMIT_TIMEOUT)
                return
            if (error := commit.exception()) is not None:  # the consumer's thread has ended before
                self.log.warning("the group did not take the last offsets: %r", error)
                return
            if commit.result():
                return

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Faust's own check counts acks, which are of no account here."""


class Fetcher(FaustFetcher):
    """Faust's fetch service; a stop that meets a rebalance ends it like any other stop.

    Faust's own crashes then, for a supervisor that was never set, and takes the worker's exit code with it.
    """

    @Service.task
    async def _fetcher(self) -> None:
        try:
            await cast("Consumer", self.app.consumer)._drain_messages(self)
        finally:
            self.set_shutdown()


class Transport(driver.Transport):
    """Faust's aiokafka transport with our consumer."""

    Consumer = Consumer
    Fetcher = Fetcher
