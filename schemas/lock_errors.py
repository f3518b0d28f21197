"""Errors of locks, permits and leadership, and of the Redis behind them."""

from __future__ import annotations

from rookery.schemas.errors import RookeryError


class LockLost(RookeryError):
    """A lock, permit or leadership may not be ours any more; what it protected was cancelled."""

    reason = "lock-lost"
    retriable = True

    def __init__(self, name: str, why: str) -> None:
        self.name, self.why = name, why
        super().__init__(f"lock {name} is lost: {why}; another one may hold it, take it again before going on")


class LockTimeout(RookeryError, TimeoutError):
    """A lock or permit was not to be had within `timeout` seconds; nothing of the attempt is left behind."""

    reason = "lock-timeout"
    retriable = True

    def __init__(self, name: str, timeout: float, why: str = "others held it") -> None:
        self.name, self.timeout, self.why = name, timeout, why
        super().__init__(f"lock {name} was not free within {timeout:g} s: {why}; try later, or wait longer")


class StaleFence(RookeryError):
    """A fencing token is older than one that was seen: its holder has lost the lock to `highest`'s."""

    reason = "stale-fence"

    def __init__(self, name: str, token: int, highest: int) -> None:
        self.name, self.token, self.highest = name, token, highest
        super().__init__(
            f"lock {name}: token {token} is refused, {highest} was seen: its holder lost the lock and must take it anew"
        )


class NoFence(RookeryError):
    """No fencing token could be had for a lock, so it was not taken."""

    reason = "no-fence"
    retriable = True

    def __init__(self, name: str, why: str) -> None:
        self.name, self.why = name, why
        super().__init__(f"no fencing token for lock {name}: {why}; the lock was given back, try again")


class RedisUnavailable(RookeryError):
    """Redis did not answer in time, or could not serve; whether the command ran is unknown."""

    reason = "redis-unavailable"
    retriable = True

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"Redis is not available: {why}; agents that need no lock go on")
