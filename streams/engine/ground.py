"""The log below the engine: what retention deletes unhandled, inboxes that were made again, ends that came back.

A consumer whose position fell below the log start goes on at the start without a word. Every offset passes through
`Partition.admit`, though, so a jump shows as a gap, and what is missing is looked up before it is believed to be a
hole: a stretch that the log deleted before it was handled is a loss, counted, and told in a dead letter.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence

from rookery.ops.settings import Settings
from rookery.schemas.errors import WrongTopic
from rookery.schemas.partition_errors import LogTruncated
from rookery.streams.core.mailbox import LANES
from rookery.streams.core.partition import Partition
from rookery.streams.engine.deadletters import DeadLetters
from rookery.streams.log import Log, NoSuchTopic

log = logging.getLogger(__name__)

# A warning is due when the oldest unhandled record has only this share of the retention left, and again after so long.
RETENTION_SHARE, WARN_AGAIN = 0.25, 600.0
# An end below our position may be a new leader that does not know yet what is committed, an unknown topic a broker that
# has just started: only so many in a row count.
SHORT_ENDS, MISSING = 2, 3
# Between two checks at least, should the cause of the first not go away; seconds.
PAUSE = 1.0


class Ground:
    """Watches the inboxes of the owned partitions."""

    def __init__(  # noqa: PLR0913, PLR0917 - what a watch needs
        self,
        settings: Settings,
        port: Log,
        inboxes: Sequence[str],
        dead_letters: DeadLetters,
        partitions: Callable[[], Iterable[Partition]],
        wake: Callable[[], None],
        fatal: Callable[[BaseException], None],
        now_ns: Callable[[], int],
    ) -> None:
        """`partitions()` are those that run now; `fatal` ends the worker; `wake` is called when effects wait."""
        self._retention = settings.inbox_retention
        self._interval = settings.ground_interval
        self._port = port
        self._inboxes = inboxes
        self._dead_letters = dead_letters
        self._partitions = partitions
        self._wake = wake
        self._fatal = fatal
        self._now_ns = now_ns
        self._looking: dict[tuple[int, int], asyncio.Task[None]] = {}
        self._short: dict[tuple[int, int], int] = {}
        self._missing = 0
        self._made: Sequence[bytes] = ()  # the incarnations when this worker started
        self._warned_at = [float("-inf")] * LANES
        self.lost_count = 0  # records deleted before they were handled
        self.seconds_left: dict[int, float] = {}  # by lane: until the log may delete the oldest unhandled record
        self._due = asyncio.Event()

    # -- stretches that are missing -----------------------------------------------------------------------------------

    def opened(self, partition: Partition) -> None:
        """A partition is recovered: what its inboxes deleted meanwhile is lost."""
        for lane in range(LANES):
            self._begins_at(partition, lane, partition.starts[lane], from_start=partition.is_new)

    def closed(self, number: int) -> None:
        """A partition is dropped."""
        for lane in range(LANES):
            if (task := self._looking.pop((number, lane), None)) is not None:
                task.cancel()
            self._short.pop((number, lane), None)

    def is_looking(self, number: int, lane: int) -> bool:
        """Whether a gap in that lane is being looked up; what is fetched meanwhile will be fetched again."""
        return (number, lane) in self._looking

    def look(self, partition: Partition, lane: int) -> None:
        """Records are missing at the lane's `next`: find out whether they were deleted, then fetch from there."""
        key = partition.number, lane
        task = self._looking[key] = asyncio.create_task(self._look(partition, lane), name="rookery-look")
        task.add_done_callback(lambda ended: self._looked(key, ended))

    def _looked(self, key: tuple[int, int], task: asyncio.Task[None]) -> None:
        if self._looking.get(key) is task:
            del self._looking[key]

    async def _look(self, partition: Partition, lane: int) -> None:
        progress = partition.lanes[lane]
        try:
            bounds = await self._port.inbox_bounds(partition.number)
        except Exception as error:
            log.warning("%s-%d can't be looked at: %s", self._inboxes[lane], partition.number, error)
            partition.doubt(lane)
        else:
            if not partition.closed:
                self._begins_at(partition, lane, bounds[lane][0])
        del self._looking[partition.number, lane]  # before the seek, whose records must be taken
        if not partition.closed:
            self._port.seek(partition.number, lane, progress.next)

    def _begins_at(self, partition: Partition, lane: int, start: int, from_start: bool = False) -> None:
        """The lane's log begins at `start`: everything unhandled that was not fetched and lies below is lost, and
        `from_start` everything below."""
        progress = partition.lanes[lane]
        if start <= progress.next:
            return
        lost = progress.truncate(start)
        if lost is None:
            return
        first, last, count = (0, start - 1, start) if from_start else lost
        error = LogTruncated(self._inboxes[lane], partition.number, first, last, count)
        log.error("%s", error)
        self.lost_count += count
        partition.finish(self._dead_letters.truncated(partition.number, lane, error))
        self._wake()

    # -- the watch ----------------------------------------------------------------------------------------------------

    def suspect(self) -> None:
        """Something that should not happen came from the log: check it now."""
        self._due.set()

    async def watch(self) -> None:
        """Check for ever."""
        while True:
            self._due.clear()
            self._watch_retention()
            try:
                await self._check()
            except WrongTopic as error:
                self._fatal(error)
            except Exception as error:
                log.warning("the inboxes can't be checked now: %s", str(error) or repr(error))
            await asyncio.sleep(PAUSE)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._due.wait()

    async def _check(self) -> None:
        try:
            incarnations = await self._port.incarnations()
        except NoSuchTopic as error:
            self._missing += 1
            self._due.set()
            if self._missing < MISSING:
                raise
            raise WrongTopic(str(error), "was deleted while this worker runs") from None
        self._missing = 0
        self._made = self._made or incarnations
        for topic, made, found in zip(self._inboxes, self._made, incarnations, strict=True):
            if made != found:
                raise WrongTopic(topic, "was deleted and made again while this worker runs")
        for partition in list(self._partitions()):
            read = [progress.next for progress in partition.lanes]  # before the question: an answer may take its time
            bounds = await self._port.inbox_bounds(partition.number)
            if partition.closed:
                continue
            for lane, (start, end) in enumerate(bounds):
                progress, key = partition.lanes[lane], (partition.number, lane)
                if end < read[lane]:
                    self._short[key] = self._short.get(key, 0) + 1
                    if self._short[key] >= SHORT_ENDS:
                        raise WrongTopic(
                            self._inboxes[lane],
                            f"partition {partition.number} ends at {end}, but we have read up to {read[lane]}: "
                            "the brokers have lost records that were acknowledged",
                        )
                    self._due.set()
                else:
                    self._short.pop(key, None)
                if start > progress.next and key not in self._looking:
                    self._begins_at(partition, lane, start)
                    self._port.seek(partition.number, lane, progress.next)

    def _watch_retention(self) -> None:
        now, clock = self._now_ns() / 1e9, asyncio.get_running_loop().time()
        left: dict[int, float] = {}
        for partition in self._partitions():
            for lane, window in enumerate(partition.windows):
                window.forget(partition.lanes[lane].prefix, partition.lanes[lane].next)
                if window.oldest > 0:
                    seconds = window.oldest / 1000 + self._retention - now
                    left[lane] = min(seconds, left.get(lane, seconds))
        self.seconds_left = left
        for lane, seconds in left.items():
            if seconds < self._retention * RETENTION_SHARE and clock - self._warned_at[lane] >= WARN_AGAIN:
                self._warned_at[lane] = clock
                log.warning(
                    "%s may delete its oldest unhandled record in %d s: add workers, or raise retention.ms",
                    self._inboxes[lane],
                    max(0, round(seconds)),
                )
