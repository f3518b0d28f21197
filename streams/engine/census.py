"""Who is in memory and what waits for them, by agent type: counted when somebody asks, so that turns pay nothing."""

from collections.abc import Container, Iterable
from typing import Any

from rookery.ops.metrics import UNKNOWN
from rookery.streams.core.mailbox import LANES, Mailbox


def census(mailboxes: Iterable[Mailbox], known: Container[str]) -> dict[str, dict[str, Any]]:
    """Agents in memory, turns that run, and messages that wait by lane, for each agent type.

    Before its first turn the type of an agent is what its address or its spawn says. Outsiders write addresses: a name
    that is not in `known` counts as unknown.
    """
    types: dict[str, dict[str, Any]] = {}
    for mailbox in mailboxes:
        if mailbox.kind is not None:
            name = mailbox.kind.name
        else:
            name = mailbox.kind_name or mailbox.address.partition("/")[0]
            if name not in known:
                name = UNKNOWN
        counts = types.get(name)
        if counts is None:
            counts = types[name] = {"live": 0, "running": 0, "waiting": [0] * LANES}
        counts["live"] += 1
        counts["running"] += mailbox.running
        waiting = counts["waiting"]
        for lane in range(LANES):
            waiting[lane] += mailbox.count(lane)
    return types
