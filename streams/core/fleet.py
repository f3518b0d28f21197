"""What members of the group tell each other: their standing when they join, the fleet when they are assigned.

Both are JSON in the group protocol, so that `DescribeGroups` shows them to every client. Fields that a reader does not
know are skipped and missing ones have defaults: workers of two versions can be in one group.
"""

from __future__ import annotations

import msgspec

from rookery.streams.core.assign import Member


class Standing(msgspec.Struct, omit_defaults=True, frozen=True):
    """What one worker says of itself; partition numbers."""

    name: str = ""
    weight: float = 1.0
    limit: int | None = None
    generation: int = 0  # of the fleet in which it was assigned what it owns
    owned: tuple[int, ...] = ()
    busy: tuple[int, ...] = ()
    overdue: tuple[int, ...] = ()
    copies: tuple[int, ...] = ()
    warm: tuple[int, ...] = ()
    place: tuple[str, ...] = ()
    asked: int = 0  # how often it asked for a rebalance: a broker ignores a member that says the same again

    def encode(self) -> str:
        """As JSON."""
        return msgspec.json.encode(self).decode()

    def member(self, name: str) -> Member:
        """As `assign` takes it, under the name that the group has for it."""
        return Member(
            name,
            self.weight,
            self.limit,
            frozenset(self.owned),
            self.generation,
            frozenset(self.busy),
            frozenset(self.overdue),
            frozenset(self.copies),
            frozenset(self.warm),
            self.place,
        )


class Share(msgspec.Struct, omit_defaults=True, frozen=True):
    """What one worker has in a fleet."""

    name: str
    weight: float = 1.0
    owned: tuple[int, ...] = ()
    copies: tuple[int, ...] = ()


class Fleet(msgspec.Struct, omit_defaults=True, frozen=True):
    """Who owns what, as the leader of the group decided."""

    generation: int = 0
    workers: tuple[Share, ...] = ()
    postponed: dict[int, str] = {}  # partitions that move later, with the worker that gets them
    cold: tuple[int, ...] = ()  # those that wait until their new worker's copy has caught up

    def encode(self) -> str:
        """As JSON."""
        return msgspec.json.encode(self).decode()

    def share(self, name: str) -> Share:
        """What a worker has; nothing if it is not in the fleet."""
        return next((share for share in self.workers if share.name == name), Share(name))


def decode_standing(text: str) -> Standing:
    """Read a standing; an empty one is that of a worker that says nothing. Raises msgspec.DecodeError."""
    return msgspec.json.decode(text, type=Standing) if text else Standing()


def decode_fleet(text: str) -> Fleet:
    """Read a fleet. Raises msgspec.DecodeError."""
    return msgspec.json.decode(text, type=Fleet) if text else Fleet()
