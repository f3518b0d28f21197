"""How many turns commit batches carry and how long they take, by agent type and priority."""

from collections.abc import Sequence

from rookery.ops.metrics import UNKNOWN
from rookery.streams.core import loops
from rookery.streams.core.batch import Finished
from rookery.streams.core.mailbox import LANES


class Commits:
    """Counts of acknowledged batches."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, int], list[float]] = {}

    def add(self, turns: Sequence[Finished], seconds: float) -> None:
        """A batch of these turns was acknowledged so long after it was built."""
        for place, count in loops.tally(turns, UNKNOWN).items():
            slots = self._counts.get(place)
            if slots is None:
                slots = self._counts[place] = [0, 0, 0.0]
            slots[0] += 1
            slots[1] += count
            slots[2] += seconds

    def statistics(self) -> dict[str, list[tuple[float, float, float]]]:
        """By agent type and lane: batches with such turns, the turns, and the sum of the batches' seconds."""
        found: dict[str, list[tuple[float, float, float]]] = {}
        for (name, lane), (batches, turns, seconds) in self._counts.items():
            found.setdefault(name, [(0, 0, 0.0)] * LANES)[lane] = batches, turns, seconds
        return found
