"""What every agent must have counted in the end, computed straight from the data, and how its state compares."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from examples.flights.messages import Departure

Totals = dict[str, Any]


def totals(departures: Iterable[Departure]) -> dict[str, Totals]:
    """The expected state of every agent, by address."""
    groups: dict[str, list[Departure]] = defaultdict(list)
    for departure in departures:
        groups[f"Plane/{departure.tail}"].append(departure)
        groups[f"Carrier/{departure.carrier}"].append(departure)
        groups[f"Airport/{departure.destination}"].append(departure)
    return {address: _totals(address, legs) for address, legs in groups.items()}


def _totals(address: str, legs: list[Departure]) -> Totals:
    delays = [leg.delay for leg in legs if leg.delay is not None]
    state: Totals = {
        "legs": len(legs),
        "cancelled": len(legs) - len(delays),
        "minutes_late": sum(delay for delay in delays if delay > 0),
        "worst": max(delays, default=None),
        "numbers": sum(leg.number for leg in legs),
    }
    if address.startswith("Plane/"):
        last = max(legs, key=lambda leg: (leg.scheduled, leg.number))
        state |= {"destination": last.destination, "scheduled": last.scheduled, "last_number": last.number}
    return state


@dataclass
class Verdict:
    """How the agents compare: turns they took, messages that are missing or too many, and one line per difference."""

    turns: int = 0
    lost: int = 0
    doubled: int = 0
    differences: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every total of every agent is right."""
        return not self.differences

    def add(self, address: str, expected: Totals, state: Mapping[str, Any] | None) -> None:
        """Compare one agent; None means that it did not answer, which loses nothing but proves nothing either."""
        if state is None:
            self.differences.append(f"{address}: no answer")
            return
        self.turns += state["legs"]
        surplus = state["legs"] - expected["legs"]
        self.doubled += max(surplus, 0)
        self.lost += max(-surplus, 0)
        wrong = [
            f"{name} {state.get(name)!r}, expected {value!r}"
            for name, value in expected.items()
            if state.get(name) != value
        ]
        if wrong:
            self.differences.append(f"{address}: {'; '.join(wrong)}")
