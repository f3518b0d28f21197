"""Where a spawned agent is put: the worker by smooth weighted round robin, the partition by the id that is minted.

Smooth weighted round robin hands out turns in proportion to the weights, and spreads those of a heavy worker: weights
5, 1, 1 give a a b a c a a. An id decides the partition of its agent, so ids are made until one hashes to a partition
of the chosen worker.
"""

from collections.abc import Callable, Mapping

from rookery.schemas.address import partition_of
from rookery.streams.core.fleet import Fleet

# Ids are tried so often for each partition that a worker does not own; then any id will do. A worker with one of 500
# partitions takes 500 tries on average, a millisecond or two.
TRIES = 20


class SmoothRoundRobin:
    """Picks names in turn, in proportion to their weights."""

    def __init__(self) -> None:
        self._weights: dict[str, float] = {}
        self._current: dict[str, float] = {}

    def set(self, weights: Mapping[str, float]) -> None:
        """New weights; those who stay keep their place in the round. Names with weight 0 are never picked."""
        self._weights = {name: weights[name] for name in sorted(weights) if weights[name] > 0}
        self._current = {name: self._current.get(name, 0.0) for name in self._weights}

    def pick(self) -> str | None:
        """The next name; None without any."""
        if not self._weights:
            return None
        current = self._current
        for name, weight in self._weights.items():
            current[name] += weight
        best = max(current, key=lambda name: current[name])
        current[best] -= sum(self._weights.values())
        return best


class Placement:
    """Mints ids of agents to spawn."""

    def __init__(self, partitions: int, new_id: Callable[[], str]) -> None:
        """`new_id` makes random ids."""
        self._partitions = partitions
        self._new_id = new_id
        self._owned: dict[str, frozenset[int]] = {}
        self._robin = SmoothRoundRobin()

    @property
    def is_known(self) -> bool:
        """Whether weights are known, so that ids are chosen."""
        return bool(self._owned)

    def know(self, fleet: Fleet) -> None:
        """Place by these weights and partitions from now on; with none known, ids are as they come."""
        self._owned = {share.name: frozenset(share.owned) for share in fleet.workers if share.owned}
        self._robin.set({share.name: share.weight for share in fleet.workers if share.owned})

    def new_agent_id(self) -> str:
        """An id of an agent that will live on the worker whose turn it is."""
        worker = self._robin.pick()
        if worker is None:
            return self._new_id()
        owned = self._owned[worker]
        for _ in range(TRIES * self._partitions // len(owned)):
            agent = self._new_id()
            if partition_of(agent, self._partitions) in owned:
                return agent
        return self._new_id()
