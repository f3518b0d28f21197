"""The compare that makes fencing tokens work: whoever owns a resource refuses a token older than one it has seen.

    seen: dict[str, int] = {}              # durable, beside the resource
    check_fence(seen, "account-7", fence)  # before each read and each write under the lock

A read has to be checked, too: it is what tells the resource that an older holder's write would come too late.
"""

from __future__ import annotations

from collections.abc import MutableMapping

from rookery.schemas.lock_errors import StaleFence


def check_fence(seen: MutableMapping[str, int], name: str, token: int) -> None:
    """Keep `token` as the highest seen of the lock `name`; raises StaleFence if a higher one was seen.

    `seen` must be as durable as what it protects, and change together with it.
    """
    if type(token) is not int or token < 0:
        raise ValueError(f"{token!r} is no fencing token: pass what `async with Lock(...) as fence` gave")
    highest = seen.get(name)
    if highest is not None and token < highest:
        raise StaleFence(name, token, highest)
    if token != highest:
        seen[name] = token
