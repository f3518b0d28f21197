"""Accounts in SQLite that refuse whoever has lost the lock: the compare is part of the UPDATE.

The token stands in the row it protects, so both change in one transaction. A read raises it, too: from then on an
earlier holder's write comes too late. Any database does it this way; `examples/fencing/run.py` shows why it is needed.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from rookery import StaleFence

SCHEMA = "CREATE TABLE IF NOT EXISTS account (id TEXT PRIMARY KEY, cents INTEGER NOT NULL, token INTEGER NOT NULL)"
BUSY_SECONDS = 30.0


class Bank:
    """One connection to the file; the lock of an account is called `account/<id>`."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute(SCHEMA)

    def open(self, account: str, cents: int) -> None:
        self._db.execute("INSERT INTO account VALUES (?, ?, -1)", (account, cents))

    def cents(self, account: str, fence: int) -> int:
        """The balance, for the holder of this token; raises StaleFence if a later one was here."""
        row = self._db.execute(
            "UPDATE account SET token = :token WHERE id = :id AND token <= :token RETURNING cents",
            {"id": account, "token": fence},
        ).fetchone()
        if row is None:
            self._refuse(account, fence)
        cents: int = row[0]
        return cents

    def set_cents(self, account: str, cents: int, fence: int) -> None:
        """Store the balance that the holder of this token computed; raises StaleFence if a later one was here."""
        done = self._db.execute(
            "UPDATE account SET cents = :cents, token = :token WHERE id = :id AND token <= :token",
            {"id": account, "cents": cents, "token": fence},
        )
        if done.rowcount == 0:
            self._refuse(account, fence)

    def total(self) -> int:
        """Of all accounts."""
        total: int = self._db.execute("SELECT sum(cents) FROM account").fetchone()[0]
        return total

    def close(self) -> None:
        self._db.close()

    def _refuse(self, account: str, fence: int) -> None:
        (highest,) = self._db.execute("SELECT token FROM account WHERE id = ?", (account,)).fetchone()
        raise StaleFence(f"account/{account}", fence, highest)
