"""The agents: one for each plane, each carrier and each airport that is flown to. They come to life when written to.

All of them keep the same figures, each over the legs it hears of. Messages of different priority overtake each other,
so nothing here depends on their order.
"""

from examples.flights.messages import Departure, Leg
from rookery import Agent, handler


class Tally(Agent):
    """Counts legs; not an agent type that anybody writes to."""

    legs: int = 0
    cancelled: int = 0
    minutes_late: int = 0
    """Over the legs that left late; leaving early makes up for nothing."""
    worst: int | None = None
    """Minutes; negative if all legs left early, None while none has left."""
    numbers: int = 0
    """The numbers of all legs, added up: one leg lost and another one doubled would show here."""

    def count(self, number: int, delay: int | None) -> None:
        """Add one leg."""
        self.legs += 1
        self.numbers += number
        if delay is None:
            self.cancelled += 1
            return
        self.minutes_late += max(delay, 0)
        self.worst = delay if self.worst is None else max(self.worst, delay)


class Plane(Tally):
    """`Plane/<tail number>`; also knows where it was sent last, which of equal times the later line decides."""

    destination: str = ""
    scheduled: str = ""
    last_number: int = -1

    @handler
    async def departed(self, departure: Departure) -> None:
        """Count the leg, and tell the carrier and the airport with the urgency that this message came with."""
        self.count(departure.number, departure.delay)
        if (departure.scheduled, departure.number) > (self.scheduled, self.last_number):
            self.scheduled, self.last_number = departure.scheduled, departure.number
            self.destination = departure.destination
        leg = Leg(departure.number, departure.delay)
        await self.send(f"Carrier/{departure.carrier}", leg, priority=self.priority)
        await self.send(f"Airport/{departure.destination}", leg, priority=self.priority)


class Carrier(Tally):
    """`Carrier/<code>`."""

    @handler
    async def flew(self, leg: Leg) -> None:
        """Count the leg."""
        self.count(leg.number, leg.delay)


class Airport(Tally):
    """`Airport/<code>`, as a destination."""

    @handler
    async def flown_to(self, leg: Leg) -> None:
        """Count the leg."""
        self.count(leg.number, leg.delay)
