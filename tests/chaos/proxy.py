"""The network between workers and brokers: a process that forwards bytes, or does not.

`python -m tests.chaos.proxy <order as JSON>` listens on one port for each link (a worker and a broker) and writes them
to `ports.json`. What is wrong with links stands in `network.json`, looked at every `POLL` seconds:

    {"worker-1": {"cut": true}}                    nothing passes; what was on its way arrives when the cut has healed
    {"worker-1": {"hole": ["app.inbox.low", 3]}}   a produce request for this partition, and all that follows it on its
                                                   connection, is swallowed
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
import sys
from pathlib import Path
from typing import Any

POLL = 0.1
PRODUCE = 0
FRAME_MAX = 1 << 28


class Link:
    """What a worker has to a broker."""

    def __init__(self, worker: str, broker: str, folder: Path) -> None:
        self.worker = worker
        self._host, _, self._port = broker.partition(":")
        self._folder = folder
        self.open = asyncio.Event()
        self.open.set()
        self.hole: tuple[str, int] | None = None

    def apply(self, rule: dict[str, Any]) -> None:
        """Take up what is wrong with it now."""
        if rule.get("cut"):
            self.open.clear()
        else:
            self.open.set()
        hole = rule.get("hole")
        self.hole = (hole[0], hole[1]) if hole else None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of the worker."""
        await self.open.wait()
        try:
            there, back = await asyncio.open_connection(self._host, int(self._port))
        except OSError:
            writer.close()
            return
        ways = self._requests(reader, back), self._answers(there, writer)
        pumps = [asyncio.ensure_future(way) for way in ways]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        for end in (writer, back):
            end.close()

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                size = await reader.readexactly(4)
                frame = await reader.readexactly(min(int.from_bytes(size, "big"), FRAME_MAX))
                await self.open.wait()
                if self.hole is not None and self.hole in produced(frame):
                    self._note()
                    while await reader.read(65_536):
                        pass
                    return
                writer.write(size + frame)
                await writer.drain()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                await self.open.wait()
                writer.write(data)
                await writer.drain()

    def _note(self) -> None:
        with (self._folder / "swallowed.jsonl").open("a") as file:
            file.write(json.dumps({"worker": self.worker}) + "\n")


def produced(frame: bytes) -> set[tuple[str, int]]:
    """Topic and partition of everything in a produce request (versions 3 to 8); empty for any other."""
    key, version, _, client = struct.unpack_from(">hhih", frame)
    if key != PRODUCE or not 3 <= version <= 8:
        return set()
    at = 10 + max(client, 0)
    (transactional,) = struct.unpack_from(">h", frame, at)
    at += 2 + max(transactional, 0) + 6  # acks, timeout
    (topics,) = struct.unpack_from(">i", frame, at)
    at += 4
    found = set()
    for _ in range(topics):
        (length,) = struct.unpack_from(">h", frame, at)
        topic = frame[at + 2 : at + 2 + length].decode()
        at += 2 + length
        (partitions,) = struct.unpack_from(">i", frame, at)
        at += 4
        for _ in range(partitions):
            partition, size = struct.unpack_from(">ii", frame, at)
            found.add((topic, partition))
            at += 8 + max(size, 0)
    return found


async def main(order: dict[str, Any]) -> None:
    folder = Path(order["folder"])
    links, servers = [], []
    ports: dict[str, dict[str, int]] = {worker: {} for worker in order["workers"]}
    for worker in order["workers"]:
        for broker in order["brokers"]:
            links.append(Link(worker, broker, folder))
            servers.append(await asyncio.start_server(links[-1].serve, "127.0.0.1", 0))
            ports[worker][broker] = servers[-1].sockets[0].getsockname()[1]
    (folder / "ports.new").write_text(json.dumps(ports))
    (folder / "ports.new").replace(folder / "ports.json")
    while True:
        await asyncio.sleep(POLL)
        with contextlib.suppress(OSError, ValueError):
            rules = json.loads((folder / "network.json").read_text())
            for link in links:
                link.apply(rules.get(link.worker, {}))


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
