"""One process that calls a resource under permits for ever. Arguments: URL of Redis, port of the resource, tasks."""

from __future__ import annotations

import asyncio
import random
import sys

from rookery import LockLost, LockTimeout, Semaphore
from rookery.ops.locks.connect import connect

LIMIT = 10
TTL = 1.5


async def call(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        await reader.readline()
        await asyncio.sleep(random.uniform(0.02, 0.2))
        writer.write(b"done\n")
        await reader.read()  # until the resource counts us as gone
    finally:
        writer.close()


async def main(url: str, port: int, tasks: int) -> None:
    permits = Semaphore("model", LIMIT, ttl=TTL, redis=connect(url, 1.0))

    async def work() -> None:
        while True:
            try:
                async with permits:
                    await call(port)
            except (LockLost, LockTimeout):
                pass

    await asyncio.gather(*(work() for _ in range(tasks)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
