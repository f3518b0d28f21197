"""What comes in: fetched records become envelopes in mailboxes, and lanes that are full are paused."""

import logging
from collections.abc import Callable, Sequence
from functools import partial

from rookery.agents.system import read_spawn
from rookery.ops.settings import Settings
from rookery.schemas.address import parse, partition_of
from rookery.schemas.envelope import Priority, Received, check_headers, decode, decode_json, is_json
from rookery.schemas.errors import InvalidAddress, Misrouted, NotSpawned, Overloaded, PayloadError
from rookery.schemas.system import REPLY, RESUME, SPAWN
from rookery.streams.core import loops
from rookery.streams.core.batch import Limits
from rookery.streams.core.mailbox import LANES, Item, Mailbox
from rookery.streams.core.partition import Partition
from rookery.streams.core.routing import Router
from rookery.streams.core.runqueue import RunQueue
from rookery.streams.engine.deadletters import DeadLetters
from rookery.streams.engine.failures import Failures
from rookery.streams.engine.ground import Ground
from rookery.streams.engine.steps import take_reply
from rookery.streams.log import Log, Record

log = logging.getLogger(__name__)

# What a sender is told whose message found an agent with too many waiting; seconds.
RETRY_AFTER = 10.0


class EnvelopeReader:
    """Reads those records of one inbox partition that have headers, in either form."""

    __slots__ = ("_lane", "_partition", "_topic")

    def __init__(self, topic: str, partition: int, lane: int) -> None:
        self._topic, self._partition, self._lane = topic, partition, lane

    def __call__(self, record: Record) -> Received:
        """The envelope of a record. Raises EnvelopeError."""
        headers = record.headers
        check_headers(headers)
        if is_json(headers):
            return decode_json(
                record.key,
                record.value,
                headers,
                record.timestamp,
                self._topic,
                self._partition,
                record.offset,
                Priority(self._lane),
            )
        return decode(record.value)


class Inbound:
    """Admits records into partitions and messages into mailboxes."""

    def __init__(  # noqa: PLR0913, PLR0917 - the parts of an engine that meet here
        self,
        settings: Settings,
        limits: Limits,
        router: Router,
        queue: RunQueue,
        dead_letters: DeadLetters,
        failures: Failures,
        port: Log,
        ground: Ground,
        wake: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        """`wake` is called when mailboxes were queued; `clock` is monotonic seconds."""
        self.limits = limits
        self._spawn_wait = settings.spawn_wait
        self._router = router
        self._queue = queue
        self._dead_letters = dead_letters
        self._failures = failures
        self._port = port
        self._ground = ground
        self._wake = wake
        self._clock = clock
        self._paused: set[tuple[int, int]] = set()
        # Spawned agents whose spawn has not come yet, each with its partition and deadline.
        self._unborn: dict[Mailbox, tuple[Partition, float]] = {}

    # -- a partition's life -------------------------------------------------------------------------------------------

    def opened(self, partition: Partition) -> None:
        """A partition is recovered: fetch it from its prefixes on."""
        self._ground.opened(partition)
        for lane in range(LANES):
            self._port.seek(partition.number, lane, partition.lanes[lane].next)
            self._resume(partition.number, lane)
        for mailbox in list(partition.ledgers.mailboxes):
            if not mailbox.held:
                self._failures.release(mailbox)

    def kept(self, partition: Partition) -> None:
        """A partition went through a rebalance: fetch on at `next`, whatever the driver did with its positions."""
        for lane in range(LANES):
            self._port.seek(partition.number, lane, partition.lanes[lane].next)

    def closed(self, partition: Partition) -> None:
        """A partition is dropped."""
        self._ground.closed(partition.number)
        for lane in range(LANES):
            self._resume(partition.number, lane)
        for mailbox in [mailbox for mailbox in self._unborn if mailbox.partition == partition.number]:
            del self._unborn[mailbox]

    def progressed(self, partition: Partition) -> None:
        """A commit moved prefixes: resume lanes whose window is half empty again."""
        for lane in range(LANES):
            if not partition.is_full(lane, share=0.5):
                self._resume(partition.number, lane)

    def _resume(self, number: int, lane: int) -> None:
        if (number, lane) in self._paused:
            self._paused.discard((number, lane))
            self._port.resume(number, lane)

    # -- records ------------------------------------------------------------------------------------------------------

    def take(self, partition: Partition, lane: int, records: Sequence[Record]) -> None:
        """Admit fetched records of one lane."""
        if self._ground.is_looking(partition.number, lane):
            return
        expected = partition.lanes[lane].next
        if records[0].offset < expected:
            self._ground.suspect()
        read = EnvelopeReader(self._router.topics.inboxes[lane], partition.number, lane)
        items, refused, missing = partition.admit(lane, records, read)
        special = partial(self._look_at, partition, lane)
        loops.deliver(items, lane, partition, self._queue, self._clock(), special)
        for record, error in refused:
            partition.finish(self._dead_letters.unreadable(partition, lane, record, error))
        if missing is not None:
            log.warning("records from %d on are missing in lane %d of partition %d", missing, lane, partition.number)
            self._ground.look(partition, lane)
        elif partition.lanes[lane].next > expected:
            partition.windows[lane].add(expected, records[0].timestamp, loops.size(records))
        self._pause_if_full(partition, lane)
        self._wake()

    def _pause_if_full(self, partition: Partition, lane: int) -> None:
        if partition.is_full(lane) and (partition.number, lane) not in self._paused:
            self._paused.add((partition.number, lane))
            self._port.pause(partition.number, lane)

    def _look_at(self, partition: Partition, lane: int, item: Item, mailbox: Mailbox | None) -> None:
        """Deliver a message whose agent is not in memory, not spawned yet, or has a ledger."""
        if mailbox is None:
            mailbox = self._open(partition, lane, item)
            if mailbox is None:
                return
        mailbox.used_at = self._clock()
        if mailbox.unborn:
            self._wait_for_spawn(mailbox, lane, item)
        elif mailbox.ledger is None or not self._take_over(partition, mailbox, lane, item):
            mailbox.lanes[lane].append(item)
            if not mailbox.running:
                self._queue.push(mailbox, lane)

    def _open(self, partition: Partition, lane: int, item: Item) -> Mailbox | None:
        """The mailbox of an agent that is not in memory; None if the message can't be for this partition.

        Where it is compiled, `deliver` makes the usual one itself.
        """
        target = item.envelope.target
        try:
            agent_type, _ = parse(target)
        except InvalidAddress as error:
            partition.finish(self._dead_letters.finished(partition, lane, item, error))
            return None
        if partition_of(target, self._router.partitions) != partition.number:
            misrouted = Misrouted(target, partition.number)
            partition.finish(self._dead_letters.finished(partition, lane, item, misrouted))
            return None
        mailbox = partition.mailboxes[target] = Mailbox(target, partition.number)
        mailbox.passing = loops.is_passing(len(partition.mailboxes) > partition.room, item.offset)
        if agent_type is None and mailbox.key not in partition.store:
            mailbox.unborn = True
            self._unborn[mailbox] = (partition, self._clock() + self._spawn_wait)
        return mailbox

    def _take_over(self, partition: Partition, mailbox: Mailbox, lane: int, item: Item) -> bool:
        """What concerns an agent with a ledger; False if the message takes the usual way into its lane."""
        ledger, kind = mailbox.ledger, item.envelope.type
        if ledger is None:
            return False
        if kind == REPLY:
            return take_reply(partition, mailbox, lane, item)
        if mailbox.held and ledger.place == (lane, item.offset):
            mailbox.lanes[lane].appendleft(item)  # a spawn may have gone before others
            mailbox.first_lane = lane
            self._failures.release(mailbox)
            return True
        if kind == RESUME and ledger.paused:
            self._failures.resume(partition, mailbox, lane, item.offset)
        elif ledger.parked_count >= self.limits.parked_max:
            error = Overloaded(mailbox.address, RETRY_AFTER)
            # The agent's own, so that nothing behind it gets into the journal before its end does.
            partition.finish(self._dead_letters.finished(partition, lane, item, error, mailbox))
            return True
        return False

    # -- spawned agents -----------------------------------------------------------------------------------------------

    def _wait_for_spawn(self, mailbox: Mailbox, lane: int, item: Item) -> None:
        """Keep what overtook the spawn; the spawn itself goes first, whatever came before it on other topics."""
        if item.envelope.type != SPAWN:
            mailbox.lanes[lane].append(item)
            return
        try:
            mailbox.kind_name = read_spawn(item.envelope).type
        except PayloadError:
            mailbox.kind_name = ""  # its turn will say so
        mailbox.unborn = False
        mailbox.first_lane = lane
        del self._unborn[mailbox]
        mailbox.lanes[lane].appendleft(item)
        self._queue.push(mailbox, lane)

    def expire_unborn(self, now: float) -> None:
        """Give up the messages of agents whose spawn did not come within `spawn_wait`."""
        for mailbox, (partition, deadline) in list(self._unborn.items()):
            if now < deadline:
                continue
            del self._unborn[mailbox]
            del partition.mailboxes[mailbox.address]
            error = NotSpawned(mailbox.address, self._spawn_wait)
            for lane, waiting in enumerate(mailbox.lanes):
                for item in waiting:
                    partition.finish(self._dead_letters.finished(partition, lane, item, error))
