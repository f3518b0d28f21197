"""Small disks under the stores of workers, which can be filled. Needs root: they are mounted."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

SIZE_MB = 64


class Disks:
    """One for each of the named workers; others get a plain folder."""

    def __init__(self, folder: Path, workers: Sequence[str]) -> None:
        self._folder = folder
        self._mounted = [folder / worker for worker in workers]
        for place in self._mounted:
            place.mkdir(parents=True)
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m", "tmpfs", str(place)], check=True)

    def folder(self, worker: str) -> Path:
        """Where a worker keeps its stores."""
        return self._folder / worker / "stores"

    def has(self, worker: str) -> bool:
        """Whether a worker has a disk of its own."""
        return self._folder / worker in self._mounted

    def fill(self, worker: str) -> None:
        """Leave no room on it."""
        try:
            with (self._folder / worker / "ballast").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(65_536))
        except OSError:
            return

    def free(self, worker: str) -> None:
        """Make room again."""
        (self._folder / worker / "ballast").unlink(missing_ok=True)

    def close(self) -> None:
        """Unmount them."""
        for place in self._mounted:
            subprocess.run(["umount", "-l", str(place)], check=False)
