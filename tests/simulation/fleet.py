"""The agents of the simulation: interpreters of the commands that come with a message.

Each keeps what it handled and what it sent in its own durable state, so the final states alone tell whether anything
was lost, doubled, sent by an attempt that was never committed, or turned round.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from rookery.agents import Agent, handler
from rookery.agents.errors import AskCycle
from rookery.agents.supervision import SkipMessage, Supervision
from rookery.schemas.envelope import Priority
from rookery.schemas.errors import AgentError, AskTimeout

# What each agent owns before its first transfer.
BALANCE = 1_000
# Turns of a message at most.
ATTEMPTS = 3


@dataclass
class Do:
    """A message: its `name` is unique and says who caused it, `number` counts (sender, target, priority), `nonce` is
    another in each attempt to send it. An ask has neither: a turn that runs again must ask the same."""

    name: str
    number: int
    nonce: str
    commands: list[list[Any]] = field(default_factory=list)


class Interpreter(Agent):
    """Does what it is told."""

    supervision = Supervision(attempts=ATTEMPTS, backoff=0.02, backoff_max=0.5)

    handled: list[list[Any]] = []  # noqa: RUF012 - state: [sender, priority, name, number, nonce]
    sent: list[list[Any]] = []  # noqa: RUF012 - state: [target, priority, name, number, nonce]
    numbers: dict[str, int] = {}  # noqa: RUF012 - state: the last number by target and priority
    results: list[list[str]] = []  # noqa: RUF012 - state: [name, what the step gave]
    asked: list[list[str]] = []  # noqa: RUF012 - state: [name, the name in the reply, or the class of the error]
    count: int = 0
    balance: int = BALANCE
    attempts: ClassVar[Iterator[int]] = itertools.count()
    turn_count: ClassVar[int] = 0
    draw_count: ClassVar[int] = 0

    @handler
    async def do(self, msg: Do) -> dict[str, Any]:
        Interpreter.turn_count += 1
        nonce = msg.nonce or self.message.id
        self.handled.append([self.sender, self.message.priority, msg.name, msg.number, nonce])
        for index, (command, *arguments) in enumerate(msg.commands):
            await getattr(self, f"_{command}")(f"{msg.name}.{index}", *arguments)
        return {"name": msg.name, "count": self.count, "handled": len(self.handled)}

    async def _add(self, name: str, number: int) -> None:
        self.count += number

    async def _sleep(self, name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _fail(self, name: str) -> None:
        raise ValueError(f"told to fail by {name}")

    async def _flaky(self, name: str, times: int) -> None:
        if self.attempt < times:
            raise ValueError(f"told to fail {times} times by {name}")

    async def _skip(self, name: str) -> None:
        raise SkipMessage(f"told by {name}")

    async def _step(self, name: str, seconds: float) -> None:
        """Another result each time it is called: what the journal keeps has to be what the state gets."""
        self.results.append([name, await self.step("draw", self._draw, seconds)])

    @staticmethod
    async def _draw(seconds: float) -> str:
        Interpreter.draw_count += 1
        await asyncio.sleep(seconds)
        return f"d{next(Interpreter.attempts)}"

    async def _ask(self, name: str, target: str, priority: int, timeout: float, commands: list[list[Any]]) -> None:
        try:
            reply = await self.ask(target, Do(name, 0, "", commands), timeout, priority=Priority(priority))
            self.asked.append([name, reply["name"]])
        except (AgentError, AskTimeout, AskCycle) as error:
            self.asked.append([name, type(error).__name__])

    async def _give(self, name: str, target: str, priority: int, amount: int) -> None:
        self.balance -= amount
        await self._send(name, target, priority, [["take", amount]])

    async def _take(self, name: str, amount: int) -> None:
        self.balance += amount

    async def _send(self, name: str, target: str, priority: int, commands: list[list[Any]]) -> None:
        line = f"{target} {priority}"
        number = self.numbers[line] = self.numbers.get(line, 0) + 1
        message = Do(name, number, f"n{next(Interpreter.attempts)}", commands)
        self.sent.append([target, priority, name, number, message.nonce])
        self.send(target, message, priority=Priority(priority))

    async def _oversize(self, name: str, target: str, size: int, count: int) -> None:
        """One message that no inbox takes, or so many that they do not fit one commit batch: the turn has to fail."""
        for _ in range(count):
            self.send(target, {"type": "filler", "text": "x" * size})


@dataclass
class Heard:
    """What a mortal agent says of a message that it handled, the `count`th of this life."""

    sender: str
    priority: int
    name: str
    number: int
    nonce: str
    count: int


class Mortal(Agent):
    """Handles messages until it is stopped. Its state ends with it, so it tells a witness of each message."""

    count: int = 0

    @handler
    async def do(self, msg: Do) -> None:
        self.count += 1
        for _, seconds in msg.commands:
            await asyncio.sleep(seconds)
        heard = Heard(
            self.sender or "", self.message.priority, msg.name, msg.number, msg.nonce or self.message.id, self.count
        )
        self.send("Witness/all", heard)


class Witness(Agent):
    """Hears."""

    @handler
    async def heard(self, msg: Heard) -> None: ...


def fails(commands: list[list[Any]]) -> bool:
    """Whether a turn with these commands ends as a dead letter."""
    return _end(commands) in {"fail", "oversize"}


def skips(commands: list[list[Any]]) -> bool:
    """Whether a turn with these commands ends without effects."""
    return _end(commands) == "skip"


def _end(commands: list[list[Any]]) -> str:
    """The command that ends a turn; that its messages are too many together shows only after all others."""
    late = ""
    for command, *arguments in commands:
        if command == "oversize" and arguments[-1] > 1:
            late = command
        elif command in {"fail", "skip", "oversize"}:
            return str(command)
    return late


# How often each command is given.
_WEIGHTS = {
    "add": 4.0, "give": 4.0, "send": 7.0, "sleep": 2.0, "step": 2.0, "ask": 1.5, "flaky": 0.5, "fail": 0.3, "skip": 0.2,
    "oversize": 0.2,
}  # fmt: skip


class Commands:
    """Makes random trees of commands for the agents of a run."""

    def __init__(
        self, rng: random.Random, agents: list[str], mortals: list[str], batch_bytes_max: int, message_bytes_max: int
    ) -> None:
        self._rng, self._agents, self._mortals = rng, agents, mortals
        self._batch_bytes_max, self._message_bytes_max = batch_bytes_max, message_bytes_max

    def tree(self, depth: int = 3) -> list[list[Any]]:
        """Some commands; those that send have commands for the next in them, down to `depth`."""
        rng, commands = self._rng, []
        for _ in range(rng.choice([0, 1, 1, 2, 3])):
            command = rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
            if depth or command not in {"send", "ask"}:
                commands.append([command, *getattr(self, f"_{command}")(depth)])
        return commands

    def short(self) -> list[list[Any]]:
        """For a mortal agent."""
        return self._rng.choice([[], [], [["sleep", *self._sleep(0)]]])

    def _where(self) -> tuple[str, int]:
        return self._rng.choice(self._agents), self._rng.randrange(len(Priority))

    def _add(self, depth: int) -> tuple[Any, ...]:
        return (self._rng.randint(1, 9),)

    def _give(self, depth: int) -> tuple[Any, ...]:
        return *self._where(), self._rng.randint(1, 50)

    def _send(self, depth: int) -> tuple[Any, ...]:
        if self._rng.random() < 0.1:
            return self._rng.choice(self._mortals), self._rng.randrange(len(Priority)), self.short()
        return *self._where(), self.tree(depth - 1)

    def _ask(self, depth: int) -> tuple[Any, ...]:
        return *self._where(), self._rng.choice([0.5, 3.0, 10.0]), self.tree(depth - 1)

    def _sleep(self, depth: int) -> tuple[Any, ...]:
        return (self._rng.choice([0.0, 0.001, 0.02, 0.02, 0.3, 2.0]),)

    def _step(self, depth: int) -> tuple[Any, ...]:
        return (self._rng.choice([0.0, 0.001, 0.02, 0.3, 1.0]),)

    def _flaky(self, depth: int) -> tuple[Any, ...]:
        return (self._rng.randint(1, ATTEMPTS - 1),)

    def _fail(self, depth: int) -> tuple[Any, ...]:
        return ()

    _skip = _fail

    def _oversize(self, depth: int) -> tuple[Any, ...]:
        half = self._message_bytes_max // 2
        return self._agents[0], *self._rng.choice(
            [(self._message_bytes_max, 1), (half, self._batch_bytes_max // half + 1)]
        )
