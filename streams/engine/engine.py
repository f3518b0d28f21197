"""The engine of one worker: owns partitions, feeds mailboxes, runs turns, commits them, ships what they sent.

A driver (Kafka's in `streams/kafka`, the in-memory one in `streams/memory.py`) calls `assigned`, `revoking` and
`fetched`, reads `committed`, and lends a `Log`. Everything runs on one event loop.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Collection, Sequence
from typing import Any

from rookery.agents.types import AgentType, Registry
from rookery.ops.settings import Settings
from rookery.schemas.errors import NotOwned
from rookery.schemas.journal import decode_agent
from rookery.schemas.partition_errors import StoreDamaged, StoreFailed
from rookery.streams.core.batch import Limits
from rookery.streams.core.mailbox import Mailbox
from rookery.streams.core.partition import Partition
from rookery.streams.core.routing import Router, Topics
from rookery.streams.core.runqueue import RunQueue
from rookery.streams.core.store import OpenStore, in_memory
from rookery.streams.engine.census import census
from rookery.streams.engine.commits import Commits
from rookery.streams.engine.deadletters import DeadLetters
from rookery.streams.engine.failures import Failures
from rookery.streams.engine.ground import Ground
from rookery.streams.engine.housekeeping import Housekeeping
from rookery.streams.engine.inbound import Inbound
from rookery.streams.engine.ownership import Ownership
from rookery.streams.engine.pool import Pool
from rookery.streams.engine.shipping import Shipper
from rookery.streams.engine.standby import Standbys
from rookery.streams.engine.steps import Host
from rookery.streams.engine.turns import TurnRunner
from rookery.streams.log import Log, Record

log = logging.getLogger(__name__)

# While there is ready work, finished turns are gathered at most this long before they are committed, in seconds.
GATHER_SECONDS = 0.01
# How often a drain looks whether it is done, in seconds.
DRAIN_POLL_SECONDS = 0.02


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def limits_of(settings: Settings) -> Limits:
    """The bounds of one partition."""
    return Limits(
        batch_bytes_max=settings.batch_bytes_max,
        batch_turns_max=settings.batch_turns_max,
        window_max=settings.window_max,
        window_bytes_max=settings.window_bytes_max,
        ring=settings.outbox_ring,
        dedup_window=settings.dedup_window,
        parked_max=settings.mailbox_max,
        room=max(settings.activations_max // settings.partitions, 1),
    )


class Engine:
    """Runs the agents of the partitions that this worker owns."""

    def __init__(  # noqa: PLR0913 - what a worker lends its engine
        self,
        settings: Settings,
        registry: Registry,
        port: Log,
        *,
        worker: str,
        now_ns: Callable[[], int],
        new_id: Callable[[], str],
        observe: Callable[[Mailbox, int, float, bool], None] = lambda mailbox, lane, seconds, failed: None,
        open_store: OpenStore = in_memory,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`worker` names this process in claims; `now_ns` is the wall clock, `new_id` makes unique ids, `chance` from 0
        to 1 spreads back-offs."""
        self.settings = settings
        self.registry = registry
        self.port = port
        self.router = Router(Topics(settings.app_id), settings.partitions, settings.nats_out)
        self.queue = RunQueue()
        self.dead_letters = DeadLetters(self.router, now_ns, new_id)
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()
        self._owned: dict[int, Ownership] = {}
        self._flush_armed = False
        self._idle: asyncio.Future[None] = self._loop.create_future()  # see idle()
        clock, topics = self._loop.time, self.router.topics
        self.failures = Failures(
            self.dead_letters, self.router, self.queue, self._wake, self.flush_soon, now_ns, new_id, chance
        )
        bytes_max = settings.message_bytes_max
        self.turns = TurnRunner(
            registry, self.router, self.failures, self._partition, now_ns, clock, new_id, bytes_max, observe
        )
        step = self.turns.compiled(self.queue, settings.batch_bytes_max)
        self.pool = Pool(
            self.queue,
            self.turns.run,
            self._runner_pauses,
            self.watch,
            clock,
            settings.concurrency_max,
            step,
        )
        wake = self.pool.wake
        self.turns.host = Host(self.router, self.pool, now_ns, self.flush_soon, settings.ask_timeout)
        self.shipper = Shipper(port, topics, settings.batch_bytes_max, self._shipped)
        letters, running = self.dead_letters, self.running_partitions
        self.ground = Ground(settings, port, topics.inboxes, letters, running, wake, self.fatal, now_ns)
        self.inbound = Inbound(
            settings,
            limits_of(settings),
            self.router,
            self.queue,
            letters,
            self.failures,
            port,
            self.ground,
            wake,
            clock,
        )
        self._worker = worker
        self.open_store = open_store
        self.standbys = Standbys(port, open_store)
        self._housekeeping = Housekeeping(self)
        self._tasks: list[asyncio.Task[None]] = []
        self._flushed_at = 0.0
        self._draining = self._hurried = False
        self.commits = Commits()
        self.counts = dict.fromkeys(
            ("commit_batches", "committed_turns", "lost_leases", "recoveries", "refused_appends", "rebalances"), 0
        )

    # -- called by the driver -----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start housekeeping."""
        services = {"ticker": self._housekeeping.run, "ground": self.ground.watch, "standbys": self.standbys.follow}
        self._tasks = [asyncio.create_task(run(), name=f"rookery-{name}") for name, run in services.items()]
        for task in self._tasks:
            task.add_done_callback(self.watch)

    def revoking(self) -> None:
        """A rebalance begins: fetching stops by itself; turns and appends go on, the log arbitrates."""

    async def assigned(self, partitions: set[int], generation: int, standbys: Collection[int] = ()) -> None:
        """This worker owns exactly `partitions` from now on; kept ones go on, lost ones are dropped. It keeps copies of
        the partitions `standbys`, which others own, and goes on from the copies of those that are its own now.

        Returns once every partition is either proved to be kept or being recovered.
        """
        for number in set(self._owned) - partitions:
            self._owned.pop(number).drop("revoked")
        self.counts["rebalances"] += 1
        self.ground.suspect()  # a topic that was deleted is one reason
        checks = []
        for number in sorted(partitions):
            ownership = self._owned.get(number)
            if ownership is None:
                self._owned[number] = Ownership(self, number, generation, self._worker, self.standbys.take(number))
                self._owned[number].recover()
            else:
                checks.append(ownership.verify(generation))
        self.standbys.assigned(set(standbys) - partitions)
        await asyncio.gather(*checks)

    def fetched(self, partition: int, lane: int, records: Sequence[Record]) -> None:
        """Take fetched records of an inbox partition; those that are not owned or not yet recovered are ignored, since
        fetching starts anew at the prefix when recovery ends."""
        owned = self._partition(partition)
        if owned is not None and not self._draining:
            # A store that fails has ended the partition; it is fetched again once it is recovered.
            with contextlib.suppress(StoreDamaged, StoreFailed):
                self.inbound.take(owned, lane, records)

    def committed(self, partition: int, lane: int) -> int | None:
        """The offset to commit for an inbox partition; None while it is not known here."""
        owned = self._partition(partition)
        return None if owned is None else owned.lanes[lane].prefix

    async def drain(self, timeout: float) -> bool:
        """Finish the turns that run, commit and ship within `timeout` seconds; starts no other. True if all went.

        A turn that waits for the reply of another agent is left to the next owner, who goes on from its last step.
        """
        self._draining = True
        self.pool.drain()
        deadline = self._loop.time() + timeout
        while (
            not (settled := self._is_settled(self.pool.asking_count))
            and self._loop.time() < deadline
            and not self._hurried
        ):
            self.flush(progress_due=True)
            await asyncio.sleep(DRAIN_POLL_SECONDS)
        return settled

    def hurry(self) -> None:
        """End a drain now."""
        self._hurried = True

    async def stop(self) -> None:
        """Stop at once: running handlers are cancelled, what is not committed never happened."""
        self.turns.stopping = True
        self._housekeeping.close()
        for task in self._tasks:
            task.cancel()
        for ownership in self._owned.values():
            ownership.drop("stopped")
        self._owned.clear()
        self.standbys.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.pool.close(timeout=5.0)
        await self.shipper.close()

    # -- commits ------------------------------------------------------------------------------------------------------

    def flush(self, progress_due: bool = False) -> None:
        """Start a commit batch for every partition that has something to commit and none in flight."""
        self._flushed_at = self._loop.time()
        for ownership in self._owned.values():
            ownership.commit(progress_due)

    def _wake(self) -> None:
        self.pool.wake()

    def flush_soon(self) -> None:
        """Commit once the current callback is over: a turn or an agent waits for it."""
        if not self._flush_armed:
            self._flush_armed = True
            self._loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._flush_armed = False
        self.flush()

    def _runner_pauses(self, drained: bool) -> None:
        """Adaptive batching: an idle worker commits at once, a busy one gathers."""
        if drained:
            _wake(self._idle)
        if drained or self._loop.time() - self._flushed_at >= GATHER_SECONDS:
            self.flush()

    def committed_batch(self, ownership: Ownership, turns: int) -> None:
        """A commit batch was acknowledged: go on with the next one, unless runners are busy gathering it."""
        self.counts["commit_batches"] += 1
        self.counts["committed_turns"] += turns
        if not len(self.queue):
            ownership.commit()

    def _shipped(self) -> None:
        """Messages were acknowledged: a full ring may have room again."""
        for ownership in self._owned.values():
            partition = ownership.partition
            if partition is not None and partition.finished and partition.flight is None:
                ownership.commit()

    @property
    def is_busy(self) -> bool:
        """Whether agents are ready that no runner has taken yet: more records can wait a little."""
        return len(self.queue) > 0

    async def idle(self, seconds: float) -> None:
        """Wait until the runners have taken all that is ready, `seconds` at most; for one waiter."""
        self._idle = self._loop.create_future()
        timer = self._loop.call_later(seconds, _wake, self._idle)
        try:
            await self._idle
        finally:
            timer.cancel()

    # -- questions ----------------------------------------------------------------------------------------------------

    def busy_partitions(self) -> set[int]:
        """Partitions with turns in flight that have run for a while."""
        return self._housekeeping.long_turns()

    def _partition(self, number: int) -> Partition | None:
        ownership = self._owned.get(number)
        return None if ownership is None else ownership.partition

    @property
    def ownerships(self) -> list[Ownership]:
        """Of all assigned partitions, whether they run or not."""
        return list(self._owned.values())

    def running_partitions(self) -> list[Partition]:
        """Those that are recovered."""
        return [owned.partition for owned in self._owned.values() if owned.partition is not None]

    def watch(self, task: asyncio.Task[None]) -> None:
        """Done callback of tasks that must not end by an error unnoticed."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("%s failed", task.get_name(), exc_info=error)
            self.fatal(error)

    def fatal(self, error: BaseException) -> None:
        """Something happened that this worker can't heal: the driver ends the process."""
        if not self.failed.done():
            self.failed.set_exception(error)
            self.failed.exception()  # the driver may have ended before it looks

    def committed_state(self, address: str) -> tuple[AgentType, bytes | None]:
        """Type and last committed state of an agent that this worker owns. Raises NotOwned, UnknownAgentType."""
        destination, key = self.router.inbox(address, 0)
        partition = self._partition(destination[1])
        if partition is None:
            raise NotOwned(address)
        stored = partition.store.get(key)
        if stored is None:
            return self.registry.get(address.partition("/")[0]), None
        record = decode_agent(stored)
        return self.registry.get(record.type), record.state

    @property
    def is_settled(self) -> bool:
        """Whether no turn runs, and all that turns have done is committed and sent."""
        return self._is_settled(0)

    def _is_settled(self, running: int) -> bool:
        idle = self.pool.running_count == running and self.shipper.is_idle
        return idle and all(ownership.is_settled for ownership in self._owned.values())

    @property
    def is_quiet(self) -> bool:
        """Whether everything that was fetched is handled, committed and sent, and all partitions are recovered."""
        return self.is_settled and all(ownership.is_quiet for ownership in self._owned.values())

    def recovery(self) -> dict[str, float]:
        """What is left of the recoveries that run: partitions, offsets, offsets per second and seconds."""
        running = [ownership.statistics() for ownership in self._owned.values() if ownership.partition is None]
        left, rate = (sum(part.get(name, 0) for part in running) for name in ("left", "rate"))
        return {"partitions": len(running), "left": left, "rate": rate, "seconds_left": left / rate if rate else 0.0}

    def statistics(self) -> dict[str, Any]:
        """Counts and bounds, by part."""
        return {
            **self.counts,
            "commits": self.commits.statistics(),
            "types": census(
                (m for o in self._owned.values() if o.partition is not None for m in o.partition.mailboxes.values()),
                self.registry.names(),
            ),
            "standbys": self.standbys.statistics(),
            "recovery": self.recovery(),
            "partitions": {number: ownership.statistics() for number, ownership in sorted(self._owned.items())},
            "pool": self.pool.statistics(),
            "ready": len(self.queue),
            "shipping": self.shipper.statistics(),
            "dead_letters": dict(self.dead_letters.counts),
            "lost_records": self.ground.lost_count,
            "retention_left": dict(self.ground.seconds_left),
            "failures": {**self.failures.counts, "late_replies": self.turns.late_replies},
        }
