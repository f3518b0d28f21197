"""Where the load is: the hottest agents and partitions of a worker, in bounded memory, from a sample of its turns.

A sketch keeps the K heaviest names (space-saving, merged batch by batch): a name that is not among them begins with the
weight of the lightest as its error, and the lightest are dropped. Whatever has more than 1/K of the whole is in it.
"""

import heapq
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

# Of turns shorter than the first bucket of the histograms one in so many is looked at, of longer ones each.
SAMPLE: Final = 32
AGENTS_MAX: Final = 200
# Counts are halved this often, so that the report is about the last minutes; seconds.
HALF_LIFE: Final = 300.0
# An agent with more than this share of its partition's busy seconds is what makes it hot: moving it moves the heat.
HOT_SHARE: Final = 0.5

# Address, seconds, and how many turns it stands for.
Turn = tuple[str, float, int]


class SpaceSaving:
    """The heaviest names with (weight, error, turns); a weight is at most `error` too large."""

    def __init__(self, names_max: int) -> None:
        self._max = names_max
        self._entries: dict[str, list[float]] = {}

    def merge(self, batch: Mapping[str, tuple[float, float]]) -> None:
        """Count names with their (weight, turns)."""
        entries = self._entries
        floor = min((entry[0] for entry in entries.values()), default=0.0) if len(entries) >= self._max else 0.0
        for name, (weight, turns) in batch.items():
            entry = entries.get(name)
            if entry is None:
                entry = entries[name] = [floor, floor, 0.0]
            entry[0] += weight
            entry[2] += turns
        if len(entries) > self._max:
            kept = heapq.nlargest(self._max, entries.items(), key=lambda item: item[1][0])
            self._entries = dict(kept)

    def scale(self, factor: float) -> None:
        """Let the past count less."""
        for entry in self._entries.values():
            entry[:] = (value * factor for value in entry)

    def top(self, count: int) -> list[tuple[str, float, float, float]]:
        """The heaviest (name, weight, error, turns), the heaviest first."""
        ordered = sorted(self._entries.items(), key=lambda item: (-item[1][0], item[0]))
        return [(name, *entry) for name, entry in ordered[:count]]  # type: ignore[misc]


class Hot(NamedTuple):
    """One line of the report; shares are of this worker's turns and busy seconds."""

    name: str
    turns_share: float
    seconds_share: float
    partition: int


class Load:
    """The load of one worker."""

    def __init__(self, partition_of: Callable[[str], int], agents_max: int = AGENTS_MAX) -> None:
        """`partition_of` tells the partition of an address."""
        self._partition_of = partition_of
        self._agents = SpaceSaving(agents_max)
        self._partitions: dict[int, list[float]] = {}  # seconds, turns; as many as the worker has had
        self._seconds = self._turns = 0.0
        self._aged_at: float | None = None

    def take(self, turns: Iterable[Turn], now: float) -> None:
        """Count a sample of turns at `now`, monotonic seconds."""
        if self._aged_at is None:
            self._aged_at = now
        while now - self._aged_at >= HALF_LIFE:
            self._aged_at += HALF_LIFE
            self._age()
        gathered: dict[str, tuple[float, float]] = {}
        for address, seconds, count in turns:
            weight, number = gathered.get(address, (0.0, 0.0))
            gathered[address] = weight + seconds * count, number + count
        for address, (weight, number) in gathered.items():
            place = self._partitions.setdefault(self._partition_of(address), [0.0, 0.0])
            place[0] += weight
            place[1] += number
            self._seconds += weight
            self._turns += number
        self._agents.merge(gathered)

    def _age(self) -> None:
        self._agents.scale(0.5)
        for entry in self._partitions.values():
            entry[:] = (value / 2 for value in entry)
        self._seconds /= 2
        self._turns /= 2

    def agents(self, count: int) -> list[Hot]:
        """The hottest agents; what may be an error of the sketch is not counted."""
        return [
            Hot(
                name,
                self._share(turns, self._turns),
                self._share(weight - error, self._seconds),
                self._partition_of(name),
            )
            for name, weight, error, turns in self._agents.top(count)
        ]

    def partitions(self, count: int) -> list[Hot]:
        """The hottest partitions."""
        ordered = sorted(self._partitions.items(), key=lambda item: (-item[1][0], item[0]))[:count]
        return [
            Hot(str(at), self._share(turns, self._turns), self._share(seconds, self._seconds), at)
            for at, (seconds, turns) in ordered
        ]

    def advice(self) -> str:
        """What a move of the hottest partition would bring; empty while nothing is known."""
        partitions = self.partitions(len(self._partitions))
        if not partitions or not self._seconds:
            return ""
        hottest = partitions[0]
        fair = 1 / len(partitions)
        if hottest.seconds_share <= 2 * fair or len(partitions) == 1:
            return "the load is even: no move would bring much"
        agent = next((one for one in self.agents(AGENTS_MAX) if one.partition == hottest.partition), None)
        what = (
            f"partition {hottest.name} has {hottest.seconds_share:.0%} of the busy seconds where {fair:.0%} were even"
        )
        if agent is not None and agent.seconds_share > HOT_SHARE * hottest.seconds_share:
            return f"{what}, most of it by {agent.name}: a move brings that along; split the work of this agent"
        return f"{what}: moving it away would leave this worker {1 - hottest.seconds_share:.0%} of its load"

    def statistics(self, count: int = 10) -> dict[str, Any]:
        """The report."""
        return {
            "agents": [one._asdict() for one in self.agents(count)],
            "partitions": [one._asdict() for one in self.partitions(count)],
            "advice": self.advice(),
        }

    @staticmethod
    def _share(part: float, whole: float) -> float:
        return part / whole if whole else 0.0
