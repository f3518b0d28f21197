"""The test kit: your agents on an in-memory log with virtual time, without servers, deterministic.

    # conftest.py
    pytest_plugins = ["rookery.testing"]

    # test_counter.py
    @pytest.mark.rookery                       # runs the test on virtual time, with a kit to bind to
    async def test_counting():
        manager = AgentManager()
        counter = manager.get_agent("Counter/a")
        assert await counter.ask(Add(2)) == {"count": 2}

Inside such a test `AgentManager()` finds the kit, agent classes are registered as they are used, and `tell`, `send`
and `ask` return when everything they caused has been handled. The engine is the one that runs on Kafka; only the log
under it is another. Without the marker: `run(main())`, or `async with Kit(Counter) as kit` on any loop.

A test with the marker that asks for the fixture `kit` gets the one it runs with, to look at `kit.dead_letters()` and
`kit.nats_published()`. A fixture `kit` of your own, `return Kit(Counter, workers=2)`, decides what that is.
"""

import asyncio
import itertools
import random
import selectors
from collections.abc import Coroutine, Sequence
from typing import Any, NamedTuple, Self, TypeVar

from rookery.agents import Agent, AgentManager
from rookery.agents.binding import Reply, bind, unbind
from rookery.agents.types import AgentType, Registry
from rookery.ops.locks import bind as bind_locks
from rookery.ops.locks import unbind as unbind_locks
from rookery.ops.locks.memory import MemoryLocks
from rookery.ops.settings import Settings
from rookery.schemas.deadletter import DeadLetter, decode_dead_letter
from rookery.schemas.envelope import decode
from rookery.streams.calls import Caller
from rookery.streams.core.outbox import Destination
from rookery.streams.core.routing import Router, Topics
from rookery.streams.engine.engine import Engine
from rookery.streams.memory import MemoryLog, MemoryPort, MemoryRecord, MemoryWorker
from rookery.streams.nats.messages import headers_of, target_subject

__all__ = ["Kit", "Published", "VirtualTimeLoop", "run"]

T = TypeVar("T")

# When virtual time begins: 2001-09-09 01:46:40 UTC, nanoseconds since the epoch.
EPOCH_NS = 1_000_000_000 * 1_000_000_000
# `settle` gives up after this much virtual time: something sends messages for ever.
SETTLE_SECONDS_MAX = 86_400.0
# Real seconds that a loop with nothing to do waits for a thread or a socket before it calls the test stuck.
STUCK_SECONDS = 5.0


class _JumpingSelector(selectors.DefaultSelector):
    """Instead of waiting for the next timer, moves the loop's clock to it."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            ready = super().select(STUCK_SECONDS)
            if not ready:
                raise RuntimeError("the test waits for something that nothing will ever do")
            return ready
        ready = super().select(0)
        if not ready and timeout > 0:
            self.clock += timeout
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer whenever nothing is ready: sleeping costs no time."""

    def __init__(self) -> None:
        """Begin at 0 seconds."""
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._jumping.clock

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Wait for the threads: their bound (Python 3.12 and newer) would be over at once on this clock."""
        await super().shutdown_default_executor()


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on virtual time and return its result; leftover tasks are cancelled."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)


class Published(NamedTuple):
    """What agents sent to `nats/<subject>`, as a NATS subscriber would get it; docs/nats.md lists the headers."""

    subject: str
    payload: bytes
    headers: dict[str, str]


class Kit:
    """Agents on an in-memory log. Use as an async context manager; `AgentManager()` binds to it inside."""

    def __init__(self, *agents: type[Agent], partitions: int = 4, workers: int = 1, **settings: Any) -> None:
        """`settings` override those of the application, such as `spawn_wait=1.0`.

        Agents may write to NATS, unless `nats_out=False`.
        """
        self.settings = Settings.load(app_id="kit", partitions=partitions, **{"nats_out": True, **settings})
        self.registry = Registry()
        for cls in agents:
            self.registry.add(cls)
        self._router = Router(Topics(self.settings.app_id), partitions, self.settings.nats_out)
        self.log = MemoryLog(self._router.topics, partitions)
        self._numbers = itertools.count()
        self._worker_count = workers
        self._workers: list[MemoryWorker] = []
        self._caller = Caller(
            "kit",
            self._router,
            self._produce,
            now_ns=self.now_ns,
            new_id=self._new_id,
            ask_timeout=self.settings.ask_timeout,
            message_bytes_max=self.settings.message_bytes_max,
        )
        self._replies_read = 0
        self._replies = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        self.locks: MemoryLocks  # what `Lock` and its friends use inside

    @property
    def manager(self) -> AgentManager:
        """An AgentManager of this kit."""
        return AgentManager(self)

    def now_ns(self) -> int:
        """The kit's clock, nanoseconds since the epoch."""
        return EPOCH_NS + int(asyncio.get_running_loop().time() * 1e9)

    # -- life ---------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Start the workers and bind."""
        for index in range(self._worker_count):
            port = MemoryPort(self.log)
            engine = Engine(
                self.settings,
                self.registry,
                port,
                worker=f"kit-{index}",
                now_ns=self.now_ns,
                new_id=self._new_id,
                chance=random.Random(index).random,
            )
            worker = MemoryWorker(engine, port)
            self._workers.append(worker)
            await worker.start()
        for index, worker in enumerate(self._workers):
            await worker.assign(set(range(index, self.settings.partitions, self._worker_count)))
        self.log.watch(self._replies)
        self._reader = asyncio.create_task(self._read_replies(), name="kit-replies")
        self.locks = MemoryLocks(self.settings.app_id)
        bind_locks(self.locks)
        bind(self)
        await self.settle()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Unbind and stop."""
        unbind(self)
        unbind_locks(self.locks)
        await self.locks.close()
        for worker in self._workers:
            await worker.stop()
        self.log.unwatch(self._replies)
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    async def settle(self) -> None:
        """Return once every message is handled, and all that it caused; virtual time passes meanwhile.

        Raises TimeoutError after a virtual day: agents that write to each other for ever.
        """
        delay = 0.001
        async with asyncio.timeout(SETTLE_SECONDS_MAX):
            while not all(worker.is_quiet for worker in self._workers) or self._unread_replies:
                await asyncio.sleep(delay)
                delay = min(delay * 1.1, 1.0)

    # -- what a test looks at -----------------------------------------------------------------------------------------

    def dead_letters(self) -> list[DeadLetter]:
        """All dead letters, partition by partition."""
        return [decode_dead_letter(record.value or b"") for record in self._records(self._router.topics.deadletter)]

    def nats_published(self) -> list[Published]:
        """All that was sent to or asked at `nats/<subject>`: in order for each subject, not across them.

        There is no edge here: nobody answers an ask, which ends as AskTimeout. Raises InvalidSubject for a target that
        an edge could not publish to.
        """
        envelopes = [decode(record.value or b"") for record in self._records(self._router.topics.nats)]
        return [Published(target_subject(found), found.payload, headers_of(found)) for found in envelopes]

    def _records(self, topic: str) -> list[MemoryRecord]:
        """Those of all partitions, one partition after the other."""
        return [record for number in range(self.settings.partitions) for record in self.log.records(topic, number)]

    def statistics(self) -> list[dict[str, Any]]:
        """The statistics of each worker's engine."""
        return [worker.engine.statistics() for worker in self._workers]

    # -- the connection that managers and handles use -----------------------------------------------------------------

    async def tell(self, *args: Any, **kwargs: Any) -> None:
        """See `Connection.tell`; returns when everything is handled that the message caused."""
        await self._caller.tell(*args, **kwargs)
        await self.settle()

    async def ask(self, *args: Any, **kwargs: Any) -> Reply:
        """See `Connection.ask`; returns when everything is handled that the message caused."""
        reply = await self._caller.ask(*args, **kwargs)
        await self.settle()
        return reply

    def committed(self, address: str) -> tuple[AgentType, bytes | None]:
        """See `Connection.committed`."""
        number = self._router.inbox(address, 0)[0][1]
        return self._workers[number % self._worker_count].engine.committed_state(address)

    def register(self, cls: type[Agent]) -> None:
        """Any agent class may be used in a kit."""
        self.registry.add(cls)

    def new_agent_id(self) -> str:
        """A uuid4 in hex that is the same in each run."""
        return f"{next(self._numbers):012x}4000800000000000000000"[:32].ljust(32, "0")

    def _new_id(self) -> str:
        return f"kit-{next(self._numbers)}"

    async def _produce(self, destination: Destination, key: bytes, value: bytes) -> None:
        self.log.append(*destination, [(key, value)])

    @property
    def _unread_replies(self) -> int:
        return len(self.log.records(self._caller.reply_topic, 0)) - self._replies_read

    async def _read_replies(self) -> None:
        while True:
            await self._replies.wait()
            self._replies.clear()
            records: Sequence[Any] = self.log.records(self._caller.reply_topic, 0)[self._replies_read :]
            self._replies_read += len(records)
            for record in records:
                self._caller.received(record.value)


# -- pytest: the marker `rookery` and the fixture `kit` ----------------------------------------------------------------


def pytest_configure(config: Any) -> None:
    """Declare both."""
    import pytest  # which programs without tests need not have

    class Fixtures:
        @pytest.fixture
        def kit(self) -> Kit:
            """The kit that a test with the marker `rookery` runs with."""
            return Kit()

    config.pluginmanager.register(Fixtures())
    config.addinivalue_line("markers", "rookery: run an async test on virtual time, with a kit for AgentManager()")


def pytest_pyfunc_call(pyfuncitem: Any) -> bool | None:
    """Run tests that are marked `rookery`, with the kit of their fixture `kit`, else with a new one."""
    if pyfuncitem.get_closest_marker("rookery") is None or not asyncio.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}

    async def main() -> None:
        async with arguments.get("kit") or Kit():
            await pyfuncitem.obj(**arguments)

    run(main())
    return True
