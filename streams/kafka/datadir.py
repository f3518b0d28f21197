"""One folder of local stores for each process: two workers that start in one data folder take different ones."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rookery.schemas.errors import ConfigurationError

# Workers of one application that may share a data folder.
SLOTS_MAX = 64


@contextmanager
def own_folder(base: Path) -> Iterator[Path]:
    """`base`, or the first of `base-2`, `base-3` ... that no running process holds; held until the block ends.

    The lock is the operating system's, so it goes with the process, however that ends, and a worker that starts again
    finds the stores it left. Raises ConfigurationError when all are taken or the folder can't be written.
    """
    for slot in range(1, SLOTS_MAX + 1):
        folder = base if slot == 1 else base.with_name(f"{base.name}-{slot}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(folder / "worker.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(f"data_dir (ROOKERY_DATA_DIR): {folder} can't be used: {error}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        try:
            yield folder
        finally:
            os.close(lock)
        return
    raise ConfigurationError(
        f"data_dir (ROOKERY_DATA_DIR): {SLOTS_MAX} workers use {base.parent} already: give this one a folder of its own"
    )
