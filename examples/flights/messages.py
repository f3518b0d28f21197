"""What the agents hear."""

import msgspec


class Departure(msgspec.Struct, frozen=True):
    """One line of the data. `number` counts from 0; `delay` is minutes, negative if early, None if cancelled."""

    number: int
    tail: str
    carrier: str
    destination: str
    scheduled: str
    delay: int | None


class Leg(msgspec.Struct, frozen=True):
    """What a plane tells its carrier and the airport it flies to about one departure."""

    number: int
    delay: int | None
