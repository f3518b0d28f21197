"""The store behind one journal partition: what its records say up to an offset, and what folding on from there needs.

A `Store` keeps the last value of every key. It changes by `apply` only: all changes together with the `Mark` after
them, so that a store on disk that lost its end in a crash is still a true picture of an earlier offset.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, Protocol

from rookery.schemas import native
from rookery.schemas.journal import CELL_MARK, is_retired

_CONTROL = 0x7E  # "~": a claim, a position or a slot; no address begins with it


class Mark(NamedTuple):
    """Where in its journal partition a store stands."""

    offset: int = 0  # next to fold
    highest: int = -1  # the highest lease number seen below it
    stale: frozenset[bytes] = frozenset()  # keys that a stale lease touched and nobody has written again since


class Store(Protocol):
    """Agents and cells by key, and what lies beside them. Reads are synchronous and see every earlier `apply`."""

    broken: Callable[[Exception], None]
    """Set by its user: called when the store fails, which is of no use from there on."""

    @property
    def mark(self) -> Mark:
        """Where it stands."""
        ...

    def get(self, key: bytes, /) -> bytes | None:
        """The value of an agent or cell."""
        ...

    def __contains__(self, key: object, /) -> bool: ...

    def __len__(self) -> int:
        """Agents and cells; a store on disk may estimate them."""
        ...

    def apply(self, changes: Mapping[bytes, bytes | None], mark: Mark, *, at_end: bool = False) -> None:
        """Take new values (None: deleted) and the mark after them, all or nothing.

        `at_end` says that the journal holds nothing more at this time.
        """
        ...

    def control(self) -> dict[bytes, bytes]:
        """Claim, position and outbox slots; asked for once, when the partition becomes one's own, since an owner
        keeps track of them itself."""
        ...

    def cells(self) -> Iterable[tuple[bytes, bytes]]:
        """Keys and values of all cells."""
        ...

    def retired(self) -> Iterable[bytes]:
        """Keys of agents that were stopped and whose records are still there."""
        ...

    def close(self) -> None:
        """Let it go; what is on disk stays."""
        ...

    def wipe(self) -> None:
        """Forget everything: what it holds is not true, or not of this journal."""
        ...


# Gives the store behind a journal partition, as it was left.
OpenStore = Callable[[int], Store]


# What a store in memory keeps its agents and cells in: what it uses of a dict.
Values = dict[bytes, bytes]


class MemoryStore:
    """A store in memory. `get` is an attribute, for the hot path: a subclass can't override it."""

    __slots__ = ("_control", "broken", "get", "mark", "values")

    def __init__(self, values: Mapping[bytes, bytes] | None = None) -> None:
        self.values = Values(values or {})
        self.get = self.values.get
        self.mark = Mark()
        self.broken: Callable[[Exception], None] = _never
        self._control: dict[bytes, bytes] | None = {}

    def __contains__(self, key: object, /) -> bool:
        return key in self.values

    def __len__(self) -> int:
        return len(self.values)

    def apply(self, changes: Mapping[bytes, bytes | None], mark: Mark, *, at_end: bool = False) -> None:
        """See `Store.apply`."""
        _apply(self.values, self._control, changes)
        self.mark = mark

    def control(self) -> dict[bytes, bytes]:
        """See `Store.control`; not kept from here on: the slots of an owner would be its last megabytes sent."""
        control, self._control = self._control, None
        return control or {}

    def cells(self) -> Iterable[tuple[bytes, bytes]]:
        """See `Store.cells`."""
        return [(key, value) for key, value in self.values.items() if CELL_MARK in key]

    def retired(self) -> Iterable[bytes]:
        """See `Store.retired`."""
        return sorted(key for key, value in self.values.items() if is_retired(key, value))

    def close(self) -> None:
        """See `Store.close`."""

    def wipe(self) -> None:
        """See `Store.wipe`."""
        self.values.clear()
        self.mark, self._control = Mark(), {}


def _apply(
    values: dict[bytes, bytes], control: dict[bytes, bytes] | None, changes: Mapping[bytes, bytes | None]
) -> None:
    """Take changes into one of two places; without the second what would go there is forgotten."""
    for key, value in changes.items():
        place = values if key[0] != _CONTROL else control
        if place is None:
            continue
        if value is None:
            place.pop(key, None)
        else:
            place[key] = value


if (_compiled := native.load("rookery.streams.core._stores")) is not None:
    Values, _apply = _compiled.Values, _compiled.apply


def _never(error: Exception) -> None:
    """A dict does not fail."""


def in_memory(number: int) -> Store:
    """An empty store in memory: an `OpenStore`."""
    return MemoryStore()
