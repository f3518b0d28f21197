"""The clients of a run: they send commands, repeat themselves, pause and resume, spawn and stop."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import Sequence

import msgspec

from rookery.ops.settings import Settings
from rookery.schemas import payload
from rookery.schemas.address import client_address, partition_of
from rookery.schemas.envelope import JSON, Priority, encode_body, seal
from rookery.schemas.system import PAUSE, RESUME, SPAWN, STATE, STOP, Spawn
from rookery.testing import EPOCH_NS
from tests.simulation.broker import Broker
from tests.simulation.evidence import Post
from tests.simulation.fleet import Commands, Do

# Messages that are told at once with the spawn of their agent, in any priority.
SPAWNED_TELLS = 3


class Clients:
    """See the head of this module; `agents` live for ever, others are spawned and stopped."""

    def __init__(
        self, broker: Broker, settings: Settings, rng: random.Random, agents: Sequence[str], repeating: bool
    ) -> None:
        self.posts: list[Post] = []
        self._broker, self._settings, self._rng, self._agents = broker, settings, rng, agents
        self._repeating = repeating
        self._mortals = [f"Mortal/{i}" for i in range(3)]
        self._commands = Commands(
            rng, list(agents), self._mortals, settings.batch_bytes_max, settings.message_bytes_max
        )
        self._numbers: Counter[tuple[str, str, int]] = Counter()
        self._paused: set[str] = set()

    async def run(self, number: int, until: float) -> None:
        """One client: sends one message after the other; now and then a second time, as if it had not heard the
        answer."""
        rng, loop, name = self._rng, asyncio.get_running_loop(), f"client{number}"
        while loop.time() < until:
            for _ in range(rng.choice([1, 1, 2, 5])):
                self._post(name, rng.choice(self._agents), Priority(rng.randrange(3)), self._commands.tree())
            if rng.random() < 0.03:
                self._pause(name, rng.choice(self._agents))
            if rng.random() < 0.1:
                self._live_and_die(name)
            await asyncio.sleep(rng.choice([0.01, 0.2, 1.0]) * rng.random() * 2)

    def _live_and_die(self, client: str) -> None:
        """Something of the life of an agent that can be stopped."""
        rng = self._rng
        if rng.random() < 0.3:
            address = uuid.UUID(int=rng.getrandbits(128), version=4).hex
            self._mortals.append(address)
            self._tell_system(client, address, SPAWN, msgspec.json.encode(Spawn("Mortal")), Priority.NORMAL)
            for _ in range(rng.randrange(SPAWNED_TELLS)):
                self._post(client, address, Priority(rng.randrange(3)), self._commands.short())
        for _ in range(rng.choice([1, 2, 3])):
            self._post(client, rng.choice(self._mortals), Priority(rng.randrange(3)), self._commands.short())
        if rng.random() < 0.4:
            address = rng.choice(self._mortals)
            self._tell_system(client, address, STOP, b"{}", Priority(rng.randrange(3)))
            self._post(client, address, Priority(rng.randrange(3)), self._commands.short())

    def _post(self, client: str, target: str, priority: Priority, commands: list[list[object]]) -> None:
        line = client, target, int(priority)
        self._numbers[line] += 1
        name, asks = f"{client}-{len(self.posts)}", self._rng.random() < 0.3
        message = payload.encode(Do(name, self._numbers[line], name, commands))
        self._append(Post(client, target, int(priority), name, asks), message, self._rng.random() < 0.2)

    def _tell_system(self, client: str, target: str, kind: str, data: bytes, priority: Priority) -> None:
        """Send a message of Rookery's own; like all of them it is answered."""
        post = Post(client, target, int(priority), f"{client}-{len(self.posts)}", True, kind)
        self._append(post, (kind, JSON, data), kind in {SPAWN, STOP} and self._rng.random() < 0.2)

    def _pause(self, client: str, target: str) -> None:
        """Have an agent paused, and resumed some time later."""
        self._paused.add(target)
        self._tell_system(client, target, PAUSE, b"{}", Priority.HIGH)
        asyncio.get_running_loop().call_later(
            self._rng.choice([0.05, 1.0, 4.0]), self._tell_system, client, target, RESUME, b"{}", Priority.HIGH
        )

    def resume_all(self, client: str) -> None:
        """Resume whatever was paused once: its resume may have been deleted before it was handled."""
        for address in sorted(self._paused):
            self._tell_system(client, address, RESUME, b"{}", Priority.HIGH)

    def ask_all(self, client: str) -> None:
        """Ask every agent for its state; the answers stand on the client's reply topic."""
        for address in self._agents:
            self._tell_system(client, address, STATE, b"{}", Priority.LOW)

    def _append(self, post: Post, message: tuple[str, str, bytes], repeats: bool) -> None:
        self.posts.append(post)
        kind, content_type, data = message
        loop, client = asyncio.get_running_loop(), client_address(post.client)
        body = encode_body(
            client,
            post.target,
            data,
            EPOCH_NS + int(loop.time() * 1e9),
            post.priority,
            post.name,
            kind,
            content_type,
            reply_to=client if post.asks else "",
        )
        topic, number = self._broker.topics.inboxes[post.priority], partition_of(post.target, self._settings.partitions)
        record, first = [(post.target.encode(), seal(body))], len(self._broker.records(topic, number))

        def append() -> None:
            # The promise holds within the window of ids.
            if len(self._broker.records(topic, number)) - first < self._settings.dedup_window:
                self._broker.append(topic, number, record)

        append()
        if repeats and self._repeating:
            loop.call_later(self._rng.choice([0.0, 0.05, 1.0]) * self._rng.random(), append)
