"""Coordination over all processes of an application, on Redis: locks with fencing tokens, permits, rates, leaders."""

from rookery.ops.locks.connect import connect_by
from rookery.ops.locks.functions import acquire_lock, release_lock, renew_lock
from rookery.ops.locks.lock import Leader, Lock, Semaphore
from rookery.ops.locks.ratelimit import RateLimit
from rookery.ops.locks.service import FenceSource, LockService, bind, unbind

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
    "release_lock",
    "renew_lock",
    "unbind",
]
