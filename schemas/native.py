"""Which compiled modules of the hot path are in use: none where nothing was compiled, or ROOKERY_PURE=1 says so.

Each has a Python twin beside it that does the same more slowly; tests compare the two.
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
    except ImportError:
        return None
