"""Coordination over all processes of an application, on Redis: locks with fencing tokens, permits, rates, leaders.

What needs redis-py is imported at its first use.
"""

from typing import TYPE_CHECKING, Any

from rookery.ops.locks.lock import Leader, Lock, Semaphore
from rookery.ops.locks.ratelimit import RateLimit
from rookery.ops.locks.service import FenceSource, LockService, bind, redis_py, unbind

if TYPE_CHECKING:
    from rookery.ops.locks.connect import connect_by
    from rookery.ops.locks.functions import acquire_lock, release_lock, renew_lock

__all__ = [
    "FenceSource",
    "Leader",
    "Lock",
    "LockService",
    "RateLimit",
    "Semaphore",
    "acquire_lock",
    "bind",
    "connect_by",
    "redis_py",
    "release_lock",
    "renew_lock",
    "unbind",
]

_AT_FIRST_USE = {
    "connect_by": "rookery.ops.locks.connect",
    **dict.fromkeys(("acquire_lock", "release_lock", "renew_lock"), "rookery.ops.locks.functions"),
}


def __getattr__(name: str) -> Any:
    if name not in _AT_FIRST_USE:
        raise AttributeError(f"module 'rookery.ops.locks' has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(_AT_FIRST_USE[name]), name)
    return value
