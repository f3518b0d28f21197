"""Shipping: committed messages go out, one ordered queue and one batch in flight per target partition."""

import asyncio
import logging
from collections.abc import Callable, Iterable

from rookery.streams.core.batch import MESSAGE_OVERHEAD
from rookery.streams.core.outbox import Destination, DestinationQueue, Group
from rookery.streams.core.routing import Topics
from rookery.streams.log import Log, NoSuchTopic

log = logging.getLogger(__name__)

# Between attempts at the same head: doubled from the first to the second, in seconds. Attempts end only with the
# partition, since a committed message is never skipped; the ring bounds what queues up meanwhile.
RETRY_FIRST, RETRY_MAX = 0.05, 2.0
# A client whose topic refuses this often is given up, or it would fill the ring and stall all who send; about 20 s.
REPLY_ATTEMPTS_MAX = 15


class Shipper:
    """Sends released groups; a destination's task lives while its queue holds something."""

    def __init__(self, port: Log, topics: Topics, batch_bytes_max: int, settled: Callable[[], None]) -> None:
        """`settled` is called after each acknowledged batch: rings may have room again."""
        self._topics = topics
        self._port = port
        self._batch_bytes_max = batch_bytes_max
        self._settled = settled
        self._queues: dict[Destination, DestinationQueue] = {}
        self._tasks: dict[Destination, asyncio.Task[None]] = {}
        self.dropped_count = 0  # replies whose client has gone
        self.retried_count = 0
        self.shipped_count = 0

    @property
    def is_idle(self) -> bool:
        """Whether everything released was sent."""
        return not self._queues

    def statistics(self) -> dict[str, int]:
        """Counts of messages and of destinations with something to send."""
        return {
            "shipped": self.shipped_count,
            "dropped_replies": self.dropped_count,
            "retries": self.retried_count,
            "destinations_busy": len(self._queues),
        }

    def put(self, released: Iterable[tuple[Destination, Group]]) -> None:
        """Queue what an acknowledged commit batch released."""
        for destination, group in released:
            queue = self._queues.get(destination)
            if queue is None:
                queue = self._queues[destination] = DestinationQueue()
                self._tasks[destination] = asyncio.create_task(self._ship(destination, queue), name="rookery-shipper")
            queue.put(group)

    async def _ship(self, destination: Destination, queue: DestinationQueue) -> None:
        topic, partition = destination
        delay, failures = RETRY_FIRST, 0
        try:
            while messages := queue.take(self._batch_bytes_max, MESSAGE_OVERHEAD):
                try:
                    await self._port.ship(topic, partition, messages)
                    self.shipped_count += len(messages)
                except Exception as error:
                    # Whatever it is, the same head goes again: a message that is skipped is lost for ever, since its
                    # receiver takes it for a repeat when it comes after later ones. Only a client may be given up.
                    failures += 1
                    gone = isinstance(error, NoSuchTopic) or failures >= REPLY_ATTEMPTS_MAX
                    if gone and self._topics.is_replies(topic):
                        self.dropped_count += len(messages)
                        log.warning("dropped %d replies to %s: %s", len(messages), topic, str(error) or "no such topic")
                        queue.settle()
                        self._settled()
                        continue
                    self.retried_count += 1
                    log.warning("sending to %s-%d failed, again in %.2f s: %s", topic, partition, delay, error)
                    await asyncio.sleep(delay)
                    delay = min(delay * 2, RETRY_MAX)
                    continue
                delay, failures = RETRY_FIRST, 0
                queue.settle()
                self._settled()
        finally:
            del self._queues[destination]
            del self._tasks[destination]

    async def close(self) -> None:
        """Stop sending; what is not acknowledged stays in the journal."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
