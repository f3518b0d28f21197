"""A turn finishes whole or leaves only a dead letter; a slow one holds up nobody but its own agent."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from rookery.agents import Agent, AgentManager, handler
from rookery.schemas.address import partition_of
from rookery.schemas.envelope import Priority
from rookery.schemas.errors import AgentError
from rookery.testing import Kit
from tests.unit.engine.harness import Cluster, addresses, post, virtual


@dataclass
class Put:
    text: str
    fail: bool = False
    seconds: float = 0.0


@dataclass
class Note:
    text: str


class Book(Agent):
    """Keeps what it is told, tells the audit; fails late, when all effects are made."""

    texts: list[str] = []  # noqa: RUF012 - state
    counts: dict[str, int] = {}  # noqa: RUF012 - state
    running: ClassVar[list[str]] = []
    together: ClassVar[int] = 0

    @handler
    async def put(self, msg: Put) -> int:
        Book.running.append(self.id)
        Book.together = max(Book.together, len(Book.running))
        try:
            self.texts.append(msg.text)
            self.counts[msg.text] = self.counts.get(msg.text, 0) + 1
            self.send("Audit/all", Note(msg.text))
            if msg.seconds:
                await asyncio.sleep(msg.seconds)
            if msg.fail:
                raise ValueError(f"no {msg.text}")
        finally:
            Book.running.remove(self.id)
        return len(self.texts)


class Audit(Agent):
    texts: list[str] = []  # noqa: RUF012 - state

    @handler
    async def note(self, msg: Note) -> None:
        self.texts.append(msg.text)


class Odd(Agent):
    """Everything a handler may do wrong."""

    size: int = 0
    text: str = ""
    value: Any = None

    @handler("grow")
    async def grow(self, msg: dict[str, Any]) -> None:
        self.size += 1
        self.text = "x" * msg["size"]

    @handler("cancel")
    async def cancel(self, msg: dict[str, Any]) -> None:
        self.size += 1
        raise asyncio.CancelledError

    @handler("unstorable")
    async def unstorable(self, msg: dict[str, Any]) -> None:
        self.value = object()

    @handler("send")
    async def send_much(self, msg: dict[str, Any]) -> None:
        for _ in range(msg["count"]):
            self.send("Audit/all", Note("x" * 1_000))


@pytest.fixture(autouse=True)
def _nobody_runs() -> None:
    Book.running, Book.together = [], 0


@virtual
async def test_a_handler_that_raises_leaves_nothing_but_a_dead_letter_with_the_original_bytes() -> None:
    async with Kit(Book, Audit) as kit:
        manager = AgentManager()
        book = manager.get_agent("Book/a")
        assert await book.ask(Put("one")) == 1
        raw = post(kit.log, "Book/a", Put("two", fail=True))
        await kit.settle()
        assert await book.ask(Put("three")) == 2
        assert (book.texts, book.counts) == (["one", "three"], {"one": 1, "three": 1})
        assert manager.get_agent("Audit/all").texts == ["one", "three"]
        (letter,) = kit.dead_letters()
        assert letter.value == raw
        assert letter.key == b"Book/a"
        number = partition_of("Book/a", 4)
        assert (letter.topic, letter.partition, letter.offset) == ("kit.inbox.normal", number, 1)
        assert (letter.reason, letter.error, letter.attempts) == ("handler-failed", "ValueError: no two", 5)
        assert "raise ValueError" in letter.traceback
        assert kit.statistics()[0]["dead_letters"] == {"handler-failed": 1}


@virtual
async def test_who_asks_a_handler_that_raises_hears_of_it() -> None:
    async with Kit(Book, Audit):
        with pytest.raises(AgentError, match="no one"):
            await AgentManager().get_agent("Book/a").ask(Put("one", fail=True))


@virtual
async def test_the_first_turn_of_an_agent_that_raises_leaves_no_agent() -> None:
    async with Kit(Book, Audit) as kit:
        book = kit.manager.get_agent("Book/a")
        await book.tell(Put("one", fail=True))
        assert book.texts == []
        await book.tell(Put("two"))
        assert book.texts == ["two"]


@virtual
async def test_a_slow_handler_holds_up_its_own_agent_only() -> None:
    """Ten minutes in one agent; others of the same partition and worker are committed and heard meanwhile."""
    slow, *others = addresses("Book", 1, 6)
    async with Cluster(Book, Audit, workers=1) as cluster:
        started = asyncio.get_running_loop().time()
        cluster.post(slow, Put("slow", seconds=600))
        cluster.post(slow, Put("behind"))
        for text in ("a", "b"):
            for other in others:
                cluster.post(other, Put(text))
        await asyncio.sleep(1)
        assert [cluster.state(other).texts for other in others] == [["a", "b"]] * 5
        assert len(cluster.state("Audit/all").texts) == 10
        assert cluster.state(slow).texts == []
        await cluster.settle()
        assert cluster.state(slow).texts == ["slow", "behind"]
        assert 600 <= asyncio.get_running_loop().time() - started < 610


@virtual
async def test_no_more_turns_run_at_once_than_allowed_and_all_get_their_turn() -> None:
    async with Cluster(Book, Audit, workers=1, concurrency_max=3) as cluster:
        started = asyncio.get_running_loop().time()
        for i in range(10):
            cluster.post(f"Book/{i}", Put("x", seconds=1))
        await cluster.settle()
        assert Book.together == 3
        assert 4 <= asyncio.get_running_loop().time() - started < 5
        assert all(cluster.state(f"Book/{i}").texts == ["x"] for i in range(10))


@virtual
async def test_an_agent_runs_one_turn_at_a_time_in_the_order_of_its_messages() -> None:
    async with Cluster(Book, Audit, workers=1) as cluster:
        for i in range(20):
            cluster.post("Book/a", Put(str(i), seconds=(i % 3) * 0.1))
        await cluster.settle()
        assert Book.together == 1
        assert cluster.state("Book/a").texts == [str(i) for i in range(20)]
        assert cluster.state("Audit/all").texts == [str(i) for i in range(20)]


@virtual
async def test_a_waiting_message_of_higher_priority_goes_first() -> None:
    async with Cluster(Book, Audit, workers=1) as cluster:
        cluster.post("Book/a", Put("first", seconds=1))
        await asyncio.sleep(0.5)
        for priority in Priority:
            cluster.post("Book/a", Put(priority.name), priority=priority)
        await cluster.settle()
        assert cluster.state("Book/a").texts == ["first", "HIGH", "NORMAL", "LOW"]


@virtual
async def test_low_gets_its_share_while_high_never_ends() -> None:
    async with Cluster(Book, Audit, workers=1, concurrency_max=1) as cluster:
        for i in range(60):
            cluster.post(f"Book/{i}", Put("h", seconds=1), priority=Priority.HIGH)
        for i in range(100, 110):
            cluster.post(f"Book/{i}", Put("l", seconds=1), priority=Priority.LOW)
        await asyncio.sleep(46)
        assert sum(len(cluster.state(f"Book/{i}").texts) for i in range(100, 110)) == 5


@virtual
async def test_what_cant_be_handled_becomes_a_dead_letter_and_the_agent_goes_on() -> None:
    async with Kit(Book, Odd, Audit) as kit:
        odd = kit.manager.get_agent("Odd/a")
        await odd.tell({"type": "grow", "size": 1})
        await odd.tell({"type": "grow", "size": kit.settings.batch_bytes_max})
        await odd.tell({"type": "send", "count": 1_000})
        await odd.tell({"type": "cancel"})
        await odd.tell({"type": "unstorable"})
        await odd.tell({"type": "unheard of"})
        await odd.tell(Put("one"), deadline=-1.0)
        post(kit.log, "Nobody/a", Note("?"))
        await odd.tell({"type": "grow", "size": 2})
        reasons = sorted(letter.reason for letter in kit.dead_letters())
        assert reasons == sorted(
            [
                "batch-too-large",
                "batch-too-large",
                "handler-failed",
                "bad-payload",
                "unknown-handler",
                "expired",
                "unknown-agent-type",
            ]
        )
        assert (odd.size, odd.text, odd.value) == (2, "xx", None)
        with pytest.raises(AttributeError, match="texts"):
            _ = odd.texts
