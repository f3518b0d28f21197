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
from rookery.schemas.envelope import Priority

# What each agent owns before its first transfer.
BALANCE = 1_000


@dataclass
class Do:
    """A message: its `name` is unique and says who caused it, `number` counts (sender, target, priority), `nonce` is
    another in each attempt to send it."""

    name: str
    number: int
    nonce: str
    commands: list[list[Any]] = field(default_factory=list)


class Interpreter(Agent):
    """Does what it is told."""

    handled: list[list[Any]] = []  # noqa: RUF012 - state: [sender, priority, name, number, nonce]
    sent: list[list[Any]] = []  # noqa: RUF012 - state: [target, priority, name, number, nonce]
    numbers: dict[str, int] = {}  # noqa: RUF012 - state: the last number by target and priority
    count: int = 0
    balance: int = BALANCE
    attempts: ClassVar[Iterator[int]] = itertools.count()
    turn_count: ClassVar[int] = 0

    @handler
    async def do(self, msg: Do) -> dict[str, Any]:
        Interpreter.turn_count += 1
        self.handled.append([self.sender, self.message.priority, msg.name, msg.number, msg.nonce])
        for index, (command, *arguments) in enumerate(msg.commands):
            await getattr(self, f"_{command}")(f"{msg.name}.{index}", *arguments)
        return {"name": msg.name, "count": self.count, "handled": len(self.handled)}

    async def _add(self, name: str, number: int) -> None:
        self.count += number

    async def _sleep(self, name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _fail(self, name: str) -> None:
        raise ValueError(f"told to fail by {name}")

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


def fails(commands: list[list[Any]]) -> bool:
    """Whether a turn with these commands ends as a dead letter."""
    return any(command in {"fail", "oversize"} for command, *_ in commands)


def commands_for(
    rng: random.Random, agents: list[str], batch_bytes_max: int, message_bytes_max: int, depth: int = 3
) -> list[list[Any]]:
    """A random tree of commands."""
    commands: list[list[Any]] = []
    for _ in range(rng.choice([0, 1, 1, 2, 3])):
        command = rng.choices(
            ["add", "give", "send", "sleep", "fail", "oversize"], [4, 4, 8 if depth else 0, 2, 0.3, 0.2]
        )[0]
        target, priority = rng.choice(agents), rng.randrange(len(Priority))
        if command == "add":
            commands.append([command, rng.randint(1, 9)])
        elif command == "give":
            commands.append([command, target, priority, rng.randint(1, 50)])
        elif command == "send":
            below = commands_for(rng, agents, batch_bytes_max, message_bytes_max, depth - 1)
            commands.append([command, target, priority, below])
        elif command == "sleep":
            commands.append([command, rng.choice([0.0, 0.001, 0.02, 0.02, 0.3, 2.0])])
        elif command == "fail":
            commands.append([command])
        else:
            half = message_bytes_max // 2
            size, count = rng.choice([(message_bytes_max, 1), (half, batch_bytes_max // half + 1)])
            commands.append([command, target, size, count])
    return commands
