"""One process of the storm: tasks that read, think and write accounts under their locks, and note what happened.

Its arguments: application, file of the bank, seconds, tasks, kind of bank. It prints one JSON object at the end.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Protocol

from examples.fencing.bank import Bank
from rookery import AgentError, Client, Lock, LockLost, LockTimeout, NoFence, StaleFence

ACCOUNTS = 12
TTL = 1.5
THINK = 0.2


class Accounts(Protocol):
    """What is locked, wherever it is."""

    async def cents(self, account: str, fence: int) -> int: ...
    async def set_cents(self, account: str, cents: int, fence: int) -> None: ...


class InSql:
    def __init__(self, bank: Bank) -> None:
        self._bank = bank

    async def cents(self, account: str, fence: int) -> int:
        return self._bank.cents(account, fence)

    async def set_cents(self, account: str, cents: int, fence: int) -> None:
        self._bank.set_cents(account, cents, fence)


class InAgents:
    """The vaults of locking_app, which guard."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def cents(self, account: str, fence: int) -> int:
        return int(await self._ask(account, {"type": "read", "fence": fence}))

    async def set_cents(self, account: str, cents: int, fence: int) -> None:
        await self._ask(account, {"type": "write", "gold": cents, "fence": fence})

    async def _ask(self, account: str, message: dict[str, Any]) -> Any:
        try:
            return await self._client.get_agent(f"Vault/{account}").ask(message)
        except AgentError as error:
            if error.error_type == StaleFence.reason:
                raise StaleFence(account, message["fence"], -1) from None
            raise


async def work(bank: Accounts, until: float, counts: Counter[str], taken: list[tuple[str, int, float, float]]) -> None:
    while time.monotonic() < until:
        account = str(random.randrange(ACCOUNTS))
        try:
            asked = time.monotonic()
            async with Lock(f"account/{account}", ttl=TTL, wait=20) as fence:
                taken.append((account, fence, asked, time.monotonic()))
                cents = await bank.cents(account, fence)
                await asyncio.sleep(random.random() * THINK)
                await bank.set_cents(account, cents + 1, fence)
                counts["accepted"] += 1
        except StaleFence:
            counts["stale"] += 1
        except (LockLost, LockTimeout, NoFence) as error:
            counts[type(error).__name__] += 1


class TrustingBank(Bank):
    """Switches the compare off: every token passes for the newest."""

    def cents(self, account: str, fence: int) -> int:
        return super().cents(account, 2**62)

    def set_cents(self, account: str, cents: int, fence: int) -> None:
        super().set_cents(account, cents, 2**62)


async def main(app_id: str, path: Path, seconds: float, tasks: int, kind: str) -> None:
    counts = Counter[str]()
    bank = (TrustingBank if kind == "TrustingBank" else Bank)(path)
    taken: list[tuple[str, int, float, float]] = []
    async with Client(app_id) as client:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        until = time.monotonic() + seconds
        accounts: Accounts = InAgents(client) if kind == "agents" else InSql(bank)
        await asyncio.gather(*(work(accounts, until, counts, taken) for _ in range(tasks)))
        statistics = client.lock_statistics
    bank.close()
    print(json.dumps({"counts": counts, "taken": taken, "statistics": statistics}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), sys.argv[5]))
