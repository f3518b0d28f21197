"""Coordination over all processes of an application, on Redis: locks with fencing tokens, permits, rates, leaders.

What stands on redis-py is not imported here: `redis_py()`, and `functions` for acquire_lock and its like.
"""

from rookery.ops.locks.lock import Leader, Lock, Semaphore
from rookery.ops.locks.ratelimit import RateLimit
from rookery.ops.locks.service import FenceSource, LockService, bind, redis_py, unbind

__all__ = [
    "FenceSource",
    "Leader",
    "Lock",
    "LockService",
    "RateLimit",
    "Semaphore",
    "bind",
    "redis_py",
    "unbind",
]
