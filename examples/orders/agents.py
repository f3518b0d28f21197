"""An order reserves stock, charges a card, and gives the stock back if the card is declined.

The gateway below stands for a payment service: it is slow, fails now and then, and knows idempotency keys.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import ClassVar

from rookery import Agent, StepFailed, Supervision, handler, idempotency_key


@dataclass
class Place:
    """An order: so many of an article, for so many cents, on a card."""

    sku: str
    count: int
    cents: int
    card: str


@dataclass
class Reserve:
    """Set articles aside; a negative count gives them back."""

    count: int


@dataclass
class Supply:
    count: int


class CardDeclined(Exception):
    """The bank says no."""


class Gateway:
    """The payment service: one charge for each key, however often it is asked."""

    charges: ClassVar[dict[str, int]] = {}  # key -> cents
    calls: ClassVar[int] = 0
    outages: ClassVar[int] = 0  # so many of the next calls fail after they were booked

    @classmethod
    async def charge(cls, card: str, cents: int) -> str:
        cls.calls += 1
        await asyncio.sleep(0.05)
        if card == "declined":
            raise CardDeclined("no money")
        cls.charges[idempotency_key()] = cents
        if cls.outages:
            cls.outages -= 1
            raise ConnectionError("the answer got lost")
        return f"receipt-{len(cls.charges)}"


class Stock(Agent):
    """One article."""

    there: int = 0

    @handler
    async def supply(self, msg: Supply) -> None:
        self.there += msg.count

    @handler
    async def reserve(self, msg: Reserve) -> bool:
        if msg.count > self.there:
            return False
        self.there -= msg.count
        return True


class Order(Agent):
    """One order, from placing to paid, sold out or declined."""

    supervision = Supervision(attempts=5, backoff=0.5)
    status: str = "new"
    receipt: str = ""

    @handler
    async def place(self, msg: Place) -> str:
        if not await self.ask(f"Stock/{msg.sku}", Reserve(msg.count), 10.0):
            self.status = "sold out"
            return self.status
        try:
            self.receipt = await self.step("charge", Gateway.charge, msg.card, msg.cents, attempts=3)
            self.status = "paid"
        except StepFailed as failed:
            if failed.error != CardDeclined.__name__:
                raise  # the gateway is down: the whole turn is tried again, and only the charge with it
            await self.ask(f"Stock/{msg.sku}", Reserve(-msg.count), 10.0)
            self.status = "declined"
        return self.status
