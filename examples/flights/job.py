"""The main job: feed all departures to a fleet of workers, watch, and hold every agent's state against the data."""

import asyncio
import contextlib
import heapq
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from aiokafka.errors import KafkaError

from examples.flights import data
from examples.flights.expected import Verdict, totals
from examples.flights.feed import messages
from examples.flights.fleet import Fleet
from examples.flights.messages import Departure
from examples.flights.view import Progress, View
from rookery import AskTimeout, Client, Priority

POLL_SECONDS = 0.5
STALL_SECONDS = 60.0
"""Without any progress for so long, the job gives up."""
QUIET_SECONDS = 30.0
"""When nothing waits and nothing has moved for so long, what is missing will not come: time to look."""
ASKS_MAX = 200
"""Asks at once in the comparison."""
VERIFY_SECONDS = 180.0
"""The whole comparison; who has not answered by then counts as silent."""

_RATE_WINDOW = 10  # polls
_WORST_COUNT = 5
_SAMPLE_SECONDS = 2.0
_SAMPLE_TIMEOUT = 10.0


class Stalled(Exception):
    """No progress; the message says where things stand."""


class Job:
    """One run over the first `limit` departures."""

    def __init__(self, client: Client, fleet: Fleet | None, progress: Progress, view: View, limit: int | None) -> None:
        """The fleet is started by the caller, who also ends it; None if the workers run elsewhere."""
        self._client = client
        self._fleet = fleet
        self._progress = progress
        self._view = view
        self._limit = limit
        self._delays: dict[str, int] = {}
        self._asked = 0
        self.seconds = 0.0
        """From the first send to the last progress that was seen."""

    async def run(self, *, feed: bool = True) -> Verdict:
        """Feed, wait until everything is handled, compare. Raises Stalled after a minute without progress.

        Without `feed`, the agents have been fed before.
        """
        self._progress.doing = "feeding"
        messages = self._messages() if feed else iter(())
        feeding = asyncio.create_task(self._client.tell_many(messages), name="feed")
        sampling = asyncio.create_task(self._sample(), name="sample")
        try:
            await self._watch(feeding)
        finally:
            for task in (feeding, sampling):
                task.cancel()
            await asyncio.gather(feeding, sampling, return_exceptions=True)
        self._progress.doing = "comparing"
        self._view.show()
        return await self._compare()

    def _messages(self) -> Iterator[tuple[str, Departure, Priority]]:
        for target, departure, priority in messages(self._limit):
            self._progress.sent += 1
            if departure.delay is not None and departure.tail != data.UNKNOWN:
                self._delays[target] = max(departure.delay, self._delays.get(target, 0))
            yield target, departure, priority

    async def _watch(self, feeding: asyncio.Task[int]) -> None:
        """Return when all is handled, or when all is quiet although something is missing."""
        progress = self._progress
        started = moved_at = time.monotonic()
        moved, handled = (0, 0), 0
        history: deque[tuple[float, int]] = deque([(started, 0)], maxlen=_RATE_WINDOW)
        while True:
            try:
                handled, progress.backlog = await self._client.handled(), await self._client.backlog()
            except KafkaError as error:
                if not error.retriable:
                    raise  # else it's a broker that comes up or restarts, and a minute without progress is the bound
            now = time.monotonic()
            if (progress.sent, handled) != moved:
                moved, moved_at = (progress.sent, handled), now
            history.append((now, handled))
            progress.rate = (handled - history[0][1]) / max(now - history[0][0], POLL_SECONDS)
            # Asking for a state is a turn too, but not one of the job's; and repeats that receivers drop are none.
            progress.turns = min(max(handled - self._asked, 0), 3 * progress.sent)
            if self._fleet is not None:
                progress.workers, progress.restarts = self._fleet.alive, self._fleet.restarts
            self._view.show()
            if feeding.done():
                feeding.result()
                progress.doing = "working"
                waits, still = sum(progress.backlog.values()), now - moved_at
                if not waits and (progress.turns >= 3 * progress.sent or still > QUIET_SECONDS):
                    self.seconds = moved_at - started
                    return
            if now - moved_at > STALL_SECONDS:
                raise Stalled(self._standstill())
            await asyncio.sleep(POLL_SECONDS)

    def _standstill(self) -> str:
        progress = self._progress
        workers = "see the workers' logs"
        if self._fleet is not None:
            workers = f"{progress.workers} workers alive; see {', '.join(map(str, self._fleet.logs))}"
        return (
            f"no progress for {STALL_SECONDS:.0f} s: {progress.sent:,} of {progress.records:,} sent, "
            f"{progress.turns:,} turns, backlog {sum(progress.backlog.values()):,}, {workers}"
        )

    async def _sample(self) -> None:
        """Every two seconds, ask the planes that were sent the worst delays how they are doing; until cancelled."""
        while True:
            worst = heapq.nlargest(_WORST_COUNT, self._delays, key=lambda address: self._delays[address])
            states = await asyncio.gather(*(self._state(address, _SAMPLE_TIMEOUT) for address in worst))
            fresh = {address: state for address, state in zip(worst, states, strict=True) if state is not None}
            known = self._progress.worst
            self._progress.worst = {
                address: state for address in worst if (state := fresh.get(address, known.get(address)))
            }
            await asyncio.sleep(_SAMPLE_SECONDS)

    async def _compare(self) -> Verdict:
        """Ask every agent for its state, and hold it against what the data says."""
        expected = await asyncio.to_thread(lambda: totals(data.departures(self._limit)))
        states: dict[str, Mapping[str, Any] | None] = {}
        addresses = iter(expected)

        async def ask() -> None:
            for address in addresses:
                # A worker that was just lost answers through its successor, so one more try is worth it.
                states[address] = await self._state(address, None) or await self._state(address, None)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(VERIFY_SECONDS):
                await asyncio.gather(*(ask() for _ in range(ASKS_MAX)))
        verdict = Verdict()
        for address, total in expected.items():
            verdict.add(address, total, states.get(address))
        return verdict

    async def _state(self, address: str, timeout: float | None) -> Mapping[str, Any] | None:
        self._asked += 1
        try:
            state: Mapping[str, Any] = await self._client.get_agent(address).state(timeout=timeout)
        except AskTimeout:
            return None
        return state
