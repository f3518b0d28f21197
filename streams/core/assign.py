"""Who owns which partition: a pure function of what the members of the group say about themselves.

    targets      where every partition belongs: shares in proportion to the weights, by largest remainder
    owners       where it is now: a move that would hurt is postponed, and its partition stays a little longer
    standbys     who keeps a warm copy: other workers, and other zones, racks and hosts when places are given

Only partition *numbers* are assigned, so that the inboxes and the journal always move together. What is kept is decided
before what moves: a member keeps its partitions up to its share, so that no assignment with these shares moves fewer.
The same members give the same answer, in whatever order they come.

A move hurts when its partition has turns in flight, or when copies are kept and its new owner has none that has caught
up. Such a move is postponed until that has changed, or until the owner says that it is `overdue`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rookery.streams.core.spread import Spread, shared

Name = str


@dataclass(frozen=True, slots=True)
class Member:
    """What a member says when it joins; only the members with the newest `generation` own what they say they do."""

    name: Name
    weight: float = 1.0  # 0: it gives all away
    limit: int | None = None  # the most partitions it takes; stretched if all limits together are too small
    owned: frozenset[int] = frozenset()
    generation: int = 0
    busy: frozenset[int] = frozenset()  # owned, with turns in flight
    overdue: frozenset[int] = frozenset()  # owned, postponed as long as may be
    copies: frozenset[int] = frozenset()
    warm: frozenset[int] = frozenset()  # copies that have caught up
    place: tuple[str, ...] = ()  # zone, rack, host: the widest first


@dataclass(frozen=True, slots=True)
class Assignment:
    """By partition; see the head of this module."""

    owners: tuple[Name, ...]
    targets: tuple[Name, ...]
    standbys: tuple[tuple[Name, ...], ...]

    @property
    def postponed(self) -> dict[int, Name]:
        """Partitions that do not move yet, with those who get them."""
        return {p: to for p, (now, to) in enumerate(zip(self.owners, self.targets, strict=True)) if now != to}

    def of(self, name: Name) -> frozenset[int]:
        """What a member owns now."""
        return frozenset(p for p, owner in enumerate(self.owners) if owner == name)

    def copies_of(self, name: Name) -> frozenset[int]:
        """What a member keeps copies of."""
        return frozenset(p for p, names in enumerate(self.standbys) if name in names)


def quotas(members: Sequence[Member], partitions: int, held: Mapping[Name, int]) -> dict[Name, int]:
    """How many partitions each member gets: in proportion to its weight, by largest remainder, within its limit.

    Of equal remainders, those who hold more now come first. All count the same when no weight is above 0.
    """
    weights = {m.name: m.weight for m in members}
    if not any(weights.values()):
        weights = dict.fromkeys(weights, 1.0)
    top = max(weights.values())
    weights = {name: weight / top for name, weight in weights.items()}  # so that no sum overflows, nor a share
    limits = {m.name: partitions if m.limit is None else max(0, m.limit) for m in members}
    if sum(limits[name] for name, weight in weights.items() if weight) < partitions:
        limits = dict.fromkeys(limits, partitions)  # a partition that nobody owns is worse than a full worker
    result = dict.fromkeys(weights, 0)
    open_names, left = [name for name, weight in weights.items() if weight], partitions
    while True:
        total = sum(weights[name] for name in open_names)
        shares = {name: left * weights[name] / total for name in open_names}
        full = [name for name, share in shares.items() if share > limits[name]]
        if not full:
            break
        for name in full:
            result[name] = limits[name]
            left -= limits[name]
        open_names = [name for name in open_names if name not in set(full)]
    for name, share in shares.items():
        result[name] = int(share)
    left -= sum(result[name] for name in open_names)
    # Rounded, since shares that are equal on paper may differ in their last bit.
    order = sorted(open_names, key=lambda name: (-round(shares[name] % 1, 9), result[name] - held.get(name, 0), name))
    for name in [name for name in order if result[name] < limits[name]][:left]:
        result[name] += 1
    return result


def assign(members: Iterable[Member], partitions: int, *, standbys: int = 0, postpone: bool = True) -> Assignment:
    """Assign the partitions 0 to `partitions` - 1, with `standbys` copies of each if there are enough members.

    `postpone` false moves everything at once. Raises ValueError without members, or for names or weights that are none.
    """
    ordered = sorted(members, key=lambda m: m.name)
    names = {m.name: m for m in ordered}
    if not ordered or len(names) != len(ordered):
        raise ValueError("members must have a name each, and there must be one")
    if any(not 0 <= m.weight < float("inf") for m in ordered):
        raise ValueError("weights must be numbers of 0 or more")
    now = _claims(ordered, partitions)
    held = dict.fromkeys(names, 0)
    for owner in now.values():
        held[owner] += 1
    room = quotas(ordered, partitions, held)
    warm: dict[int, list[Name]] = {}
    for member in ordered:
        for p in member.warm:
            warm.setdefault(p, []).append(member.name)
    takers = {name for name in names if room[name] > held[name]}

    def worth(p: int) -> tuple[bool, bool, int]:
        owner = names[now[p]]
        # Kept first: those with turns in flight, then those of which no taker has a copy that has caught up.
        return p not in owner.busy or p in owner.overdue, not takers.isdisjoint(warm.get(p, ())), p

    targets = _targets(sorted(now, key=worth), now, warm, room, partitions)
    owners = targets
    if postpone:
        ready = warm if standbys else None
        owners = [_owner_now(names, p, now.get(p), to, ready) for p, to in enumerate(targets)]
    copies = _standbys(ordered, owners, targets, standbys)
    return Assignment(tuple(owners), tuple(targets), copies)


def _claims(ordered: Sequence[Member], partitions: int) -> dict[int, Name]:
    """Who owns what now: of two that claim a partition, the one that was assigned it later."""
    now: dict[int, Member] = {}
    for member in ordered:
        for p in member.owned:
            if 0 <= p < partitions and (p not in now or member.generation > now[p].generation):
                now[p] = member
    return {p: member.name for p, member in now.items()}


def _targets(
    dearest: Sequence[int],
    now: Mapping[int, Name],
    warm: Mapping[int, Sequence[Name]],
    room: dict[Name, int],
    count: int,
) -> list[Name]:
    """Keep what fits the shares, the dearest first, and move the rest to whoever has caught up, else has room."""
    targets: dict[int, Name] = {}
    for p in dearest:
        if room[now[p]] > 0:
            room[now[p]] -= 1
            targets[p] = now[p]
    for p in range(count):
        ready = [name for name in warm.get(p, ()) if room[name] > 0] if p not in targets else []
        if ready:
            targets[p] = max(ready, key=lambda name: (room[name], name))
            room[targets[p]] -= 1
    free = [name for name in sorted(room) for _ in range(room[name])]
    targets.update(zip([p for p in range(count) if p not in targets], free, strict=True))
    return [targets[p] for p in range(count)]


def _owner_now(
    names: Mapping[Name, Member], p: int, owner: Name | None, to: Name, warm: Mapping[int, Sequence[Name]] | None
) -> Name:
    """Where a partition is until its move does not hurt; `warm` is None when no copies are kept."""
    is_cold = warm is not None and to not in warm.get(p, ())
    if owner is None:
        # Its owner is gone: whoever has caught up takes it now, and hands it on if that is too much for its share.
        return next((name for name in (warm or {}).get(p, ()) if is_cold and names[name].weight), to)
    hurts = p in names[owner].busy or is_cold
    return owner if hurts and p not in names[owner].overdue else to


def _standbys(
    ordered: Sequence[Member], owners: Sequence[Name], targets: Sequence[Name], standbys: int
) -> tuple[tuple[Name, ...], ...]:
    """Copies: those that are there stay if they are as far away as any and evenly spread; who gets it later has one."""
    staff = [m for m in ordered if m.weight] or list(ordered)
    if not standbys:
        return ((),) * len(owners)
    # The slash keeps a zone apart from a member of the same name.
    places = {m.name: (*(f"{label}/" for label in m.place), m.name) for m in ordered}
    holders: dict[int, list[Name]] = {}
    for member in staff:
        for p in member.copies | member.warm:
            holders.setdefault(p, []).append(member.name)
    warm = {m.name: m.warm for m in ordered}
    fresh = Spread({m.name: (places[m.name], m.weight or 1.0) for m in staff})
    for owner in owners:
        fresh.place([owner], places, standbys)
    spread = Spread({m.name: (places[m.name], m.weight or 1.0) for m in staff})
    result = []
    for p, (owner, to) in enumerate(zip(owners, targets, strict=True)):
        used = [owner]
        if to != owner:
            used.append(to)
            spread.take(to)
        for name in sorted(holders.get(p, ()), key=lambda name: (p not in warm[name], name)):
            if len(used) > standbys:
                break
            far = spread.find(used, places)
            # One more than an even share may stay, so that a small change of weights moves no copies.
            is_even = spread.counts[name] <= fresh.counts[name]
            if name not in used and is_even and far and shared(name, used, places) <= shared(far, used, places):
                used.append(name)
                spread.take(name)
        spread.place(used, places, standbys)
        result.append(tuple(used[1:]))
    return tuple(result)
