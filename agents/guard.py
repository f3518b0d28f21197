"""Fencing tokens that an agent has seen: kept beside its state, committed and taken back with it.

They are stored as one more entry of the state's map, `~fences`, which no declared field can be called. An agent that
guards nothing stores nothing.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from rookery.schemas.errors import ConfigurationError
from rookery.schemas.fence import check_fence

ATTRIBUTE: Final = "_rookery_fences"
FIELD: Final = (ATTRIBUTE, dict[str, int] | msgspec.UnsetType, msgspec.field(default=msgspec.UNSET, name="~fences"))
"""The entry as a field of a state's struct."""
LOCKS_MAX: Final = 1_000
"""Locks that one agent can guard against; a mark is never forgotten, since an old holder may always come back."""


def guard(attributes: dict[str, Any], name: str, token: int) -> None:
    """See `Agent.guard`."""
    seen = attributes.get(ATTRIBUTE, msgspec.UNSET)
    if seen is msgspec.UNSET:
        seen = {}
    if len(seen) >= LOCKS_MAX and name not in seen:
        raise ConfigurationError(f"one agent guards against at most {LOCKS_MAX} locks: give the data more agents")
    check_fence(seen, name, token)
    attributes[ATTRIBUTE] = seen
