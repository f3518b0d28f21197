"""The window of one lane: what was fetched and is not done yet, by fetch, since only its sum and its age matter."""

from collections import deque


class Window:
    """Fetches in order; each counts until all of its records are done, the last one until the next or the end."""

    __slots__ = ("_fetches", "bytes_count")

    def __init__(self) -> None:
        self._fetches: deque[tuple[int, int, int]] = deque()  # first offset, its record's timestamp, bytes
        self.bytes_count = 0

    @property
    def oldest(self) -> int:
        """When the oldest record was written, milliseconds since the Unix epoch; 0 if the window is empty."""
        return self._fetches[0][1] if self._fetches else 0

    def add(self, first: int, timestamp: int, size: int) -> None:
        """Records from offset `first` on were admitted, of `size` bytes together."""
        self._fetches.append((first, timestamp, size))
        self.bytes_count += size

    def forget(self, prefix: int, end: int) -> None:
        """All below `prefix` is done, of what was fetched below `end`."""
        fetches = self._fetches
        while fetches and (prefix == end or (len(fetches) > 1 and fetches[1][0] <= prefix)):
            self.bytes_count -= fetches.popleft()[2]
