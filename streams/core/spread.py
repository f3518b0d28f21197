"""Spreading copies over places: as far apart as the labels allow, and as evenly as the weights say."""

import heapq
from collections.abc import Mapping, Sequence

Name = str
Place = tuple[str, ...]  # zone, rack, host, and the member itself: the widest first


class _Node:
    """A zone, rack, host or member; a heap of what is in it, the emptiest for its weight first."""

    __slots__ = ("children", "count", "heap", "key", "members", "weight")

    def __init__(self, key: str) -> None:
        self.key = key
        self.weight = 0.0
        self.count = 0
        self.members = 0
        self.children: dict[str, _Node] = {}
        self.heap: list[tuple[float, str]] = []

    @property
    def load(self) -> float:
        """What it would hold for its weight with one more."""
        return (self.count + 1) / self.weight


class Spread:
    """The members that may hold copies, and how many each holds."""

    def __init__(self, members: Mapping[Name, tuple[Place, float]]) -> None:
        """`members`: where each is, and its weight."""
        self.counts = dict.fromkeys(members, 0)
        self._places = {name: place for name, (place, _) in members.items()}
        self._root = _Node("")
        for name, (place, weight) in members.items():
            for node in self._path(place, make=True):
                node.weight += weight
                node.members += 1
            self.counts[name] = 0
        for node in self._all(self._root):
            node.heap = [(child.load, child.key) for child in node.children.values()]
            heapq.heapify(node.heap)

    def take(self, name: Name) -> None:
        """A member holds one more."""
        if name not in self.counts:
            return
        self.counts[name] += 1
        parent = None
        for node in self._path(self._places[name]):
            node.count += 1
            if parent is not None:
                heapq.heappush(parent.heap, (node.load, node.key))
            parent = node

    def find(self, used: Sequence[Name], places: Mapping[Name, Place]) -> Name | None:
        """The member for one more copy, as far as can be from those that have one; None if all have."""
        node = self._root
        rivals = [places[name] for name in used]
        if self._left(node, rivals) <= 0:
            return None
        depth = 0
        while node.children:
            taken = {place[depth] for place in rivals}
            best = self._emptiest(node, taken, rivals, depth) or self._emptiest(node, set(), rivals, depth)
            assert best is not None  # noqa: S101 - the node has a member left, so one of its children has
            rivals = [place for place in rivals if len(place) > depth and place[depth] == best.key]
            node, depth = best, depth + 1
        return node.key

    def place(self, used: list[Name], places: Mapping[Name, Place], copies: int) -> None:
        """Add members to `used`, an owner and its copies so far, until there are `copies` or no members are left."""
        while len(used) <= copies and (name := self.find(used, places)) is not None:
            used.append(name)
            self.take(name)

    def _emptiest(self, node: _Node, taken: set[str], rivals: Sequence[Place], depth: int) -> _Node | None:
        """The child with the least load that is not taken and has a member left."""
        aside, found = [], None
        while node.heap and found is None:
            entry = heapq.heappop(node.heap)
            child = node.children[entry[1]]
            if entry[0] != child.load:
                continue  # of before it got more
            aside.append(entry)
            inside = [place for place in rivals if place[depth] == child.key]
            if child.key not in taken and self._left(child, inside) > 0:
                found = child
        for entry in aside:
            heapq.heappush(node.heap, entry)
        return found

    def _left(self, node: _Node, rivals: Sequence[Place]) -> int:
        """Members in it that have no copy yet; rivals are in it, but may be none of those that can hold copies."""
        return node.members - sum(place[-1] in self.counts for place in rivals)

    def _path(self, place: Place, make: bool = False) -> list[_Node]:
        path = [self._root]
        for key in place:
            if make and key not in path[-1].children:
                path[-1].children[key] = _Node(key)
            path.append(path[-1].children[key])
        return path

    def _all(self, node: _Node) -> list[_Node]:
        return [node, *(found for child in node.children.values() for found in self._all(child))]


def shared(name: Name, others: Sequence[Name], places: Mapping[Name, Place]) -> int:
    """How many labels a member has in common with the one of the others that is nearest to it, the widest first."""
    nearest = 0
    for other in others:
        common = 0
        for mine, its in zip(places[name], places[other], strict=False):
            if mine != its:
                break
            common += 1
        nearest = max(nearest, common)
    return nearest
