"""Which compiled modules of the hot path are in use: none where nothing was compiled, or ROOKERY_PURE=1 says so.

Each has a Python twin that does the same more slowly, and is what to read first; tests compare the two. A module that
was compiled but can't be loaded is an error: half of them would be worse than none.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType

PURE = os.environ.get("ROOKERY_PURE") == "1"


def load(name: str) -> ModuleType | None:
    """The compiled module `name`, or None."""
    if PURE:
        return None
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return None


def in_use() -> bool:
    """Whether the hot path is compiled here."""
    return load("rookery.schemas._wire") is not None
