"""Stores that survive their process, but for what had not been flushed when it died."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import NamedTuple

from rookery.streams.core.store import Mark, MemoryStore

# The share of changes after which everything so far is on disk.
FLUSHED = 0.2


class Image(NamedTuple):
    """What is on disk of one partition."""

    mark: Mark = Mark()
    values: Mapping[bytes, bytes] = {}
    control: Mapping[bytes, bytes] = {}


class Disk:
    """The disk of one worker, over all its processes."""

    def __init__(self, seed: str) -> None:
        self.images: dict[int, Image] = {}  # by partition
        self.rng = random.Random(seed)
        self.reopened_count = 0  # stores that held something

    def open(self, number: int) -> DiskStore:
        """The store of a partition as it was left."""
        self.reopened_count += number in self.images
        return DiskStore(self, number)


class DiskStore(MemoryStore):
    """One store while a process has it open."""

    def __init__(self, disk: Disk, number: int) -> None:
        image = disk.images.get(number, Image())
        super().__init__(image.values)
        self.mark = image.mark
        self._disk, self._number = disk, number
        self._kept = dict(image.control)

    def apply(self, changes: Mapping[bytes, bytes | None], mark: Mark, *, at_end: bool = False) -> None:
        super().apply(changes, mark, at_end=at_end)
        for key, value in changes.items():
            if key.startswith(b"~") and value is not None:
                self._kept[key] = value
        if self._disk.rng.random() < FLUSHED:
            self._disk.images[self._number] = Image(mark, dict(self.values.items()), dict(self._kept))

    def control(self) -> dict[bytes, bytes]:
        return dict(self._kept)

    def wipe(self) -> None:
        super().wipe()
        self._kept.clear()
        self._disk.images.pop(self._number, None)
