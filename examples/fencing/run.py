"""A teller is frozen in the middle of a deposit; another one serves the account; the first wakes up and is refused.

python -m rookery.ops.servers run -- python -m examples.fencing.run
"""

from __future__ import annotations

import asyncio
import tempfile
import time
import uuid
from pathlib import Path

from examples.fencing.bank import Bank
from rookery import Client, Lock, LockLost, Settings, StaleFence
from rookery.streams.kafka import topics

TTL = 1.0


async def deposit(bank: Bank, cents: int, think: float = 0.0, frozen: float = 0.0) -> str:
    """Read, think, write: the classic way to lose money."""
    try:
        async with Lock("account/anna", ttl=TTL) as fence:
            balance = bank.cents("anna", fence)
            await asyncio.sleep(think)
            time.sleep(frozen)  # noqa: ASYNC251 - the whole process stands still, so it can't notice anything
            bank.set_cents("anna", balance + cents, fence)
            return f"deposited {cents} with token {fence}"
    except StaleFence as error:
        return f"refused: {error}"
    except LockLost as error:
        return f"cancelled: {error}"


def other_process(path: Path, app_id: str) -> None:
    """Another teller, in a process of its own, since this one stands still."""

    async def serve() -> None:
        bank = Bank(path)
        async with Client(app_id):
            print("teller 2:", await deposit(bank, 200), flush=True)
        bank.close()

    asyncio.run(serve())


async def main() -> None:
    import multiprocessing

    app_id = f"fencing-{uuid.uuid4().hex[:8]}"
    settings = Settings.load(app_id=app_id)
    kafka = {"bootstrap_servers": settings.broker}
    await topics.ensure(settings, kafka)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bank.db"
        bank = Bank(path)
        bank.open("anna", 1_000)
        async with Client(app_id):
            second = multiprocessing.get_context("spawn").Process(target=other_process, args=(path, app_id))
            second.start()
            print("teller 1:", await deposit(bank, 100, frozen=8 * TTL), flush=True)
            await asyncio.to_thread(second.join)
            print("teller 1:", await deposit(bank, 100), flush=True)
        print("balance:", bank.total())
        bank.close()
    await topics.remove(app_id, kafka)


if __name__ == "__main__":
    asyncio.run(main())
