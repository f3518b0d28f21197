"""What a Kafka with an authorizer has to allow: one table by role, printed as commands, checked by workers and edges.

A missing permission met in the middle of the work looks like any failing request; met here it has a name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from aiokafka.errors import GroupAuthorizationFailedError, for_code
from aiokafka.protocol.group import HeartbeatRequest

from rookery.schemas.errors import NotAuthorized
from rookery.streams.core.routing import Topics
from rookery.streams.kafka import topics as admin
from rookery.streams.kafka.batches import COORDINATOR_NOT_READY
from rookery.streams.kafka.lease import transactional_id
from rookery.streams.kafka.topicids import permitted

ROLES = ("worker", "client", "operator", "letters", "edge")
# The numbers of operations in Kafka's protocol, which are also the bits of what a broker says is permitted.
OPERATIONS = {"READ": 3, "WRITE": 4, "CREATE": 5, "DELETE": 6, "ALTER": 7, "DESCRIBE": 8, "DESCRIBE_CONFIGS": 10}
OPERATIONS["ALTER_CONFIGS"] = 11


class Acl(NamedTuple):
    """Operations on one resource; `resource` is topic, group or transactional-id, READ and WRITE imply DESCRIBE."""

    resource: str
    name: str
    prefixed: bool
    operations: tuple[str, ...]

    def command(self, broker: str, principal: str) -> str:
        """The command that allows it."""
        words = [f"kafka-acls.sh --bootstrap-server {broker} --add --allow-principal '{principal}'"]
        words += [f"--operation {operation}" for operation in self.operations]
        words.append(f"--{self.resource} '{self.name}'")
        if self.prefixed:
            words.append("--resource-pattern-type prefixed")
        return " ".join(words)

    def form(self, principal: str) -> dict[str, Any]:
        """The same for a program that reads JSON."""
        return {
            "principal": principal,
            "resource": self.resource,
            "name": self.name,
            "pattern": "prefixed" if self.prefixed else "literal",
            "operations": list(self.operations),
        }


def needed(app_id: str, role: str, nats_out: bool = False) -> tuple[Acl, ...]:
    """What a role of an application needs, and no more; a worker needs existing topics, an operator makes them,
    `letters` is for `dlq` and `edge` for the NATS edge. `nats_out`: agents may write to NATS."""
    names = Topics(app_id)
    replies, leases = names.replies(""), transactional_id(app_id, 0).removesuffix("0")
    to_nats = (Acl("topic", names.nats, False, ("WRITE",)),) if nats_out else ()
    if role == "client":
        return (
            *to_nats,
            *(Acl("topic", name, False, ("WRITE",)) for name in names.inboxes),
            Acl("topic", names.fence, False, ("WRITE",)),
            Acl("topic", replies, True, ("READ", "CREATE", "DELETE", "DESCRIBE_CONFIGS")),
            Acl("group", app_id, False, ("DESCRIBE",)),
        )
    if role == "letters":
        return (
            *(Acl("topic", name, False, ("READ", "WRITE")) for name in names.inboxes),
            Acl("topic", names.deadletter, False, ("READ", "DELETE")),
            Acl("topic", names.replayed, False, ("READ", "WRITE", "CREATE", "DESCRIBE_CONFIGS")),
        )
    if role == "edge":
        return (
            *(Acl("topic", name, False, ("WRITE",)) for name in (*names.inboxes, names.deadletter)),
            Acl("topic", replies, True, ("READ", "CREATE", "DELETE", "DESCRIBE_CONFIGS")),
            *(Acl("topic", replies, True, ("WRITE",)) for _ in to_nats),
            *(Acl("topic", acl.name, False, ("READ", "DESCRIBE_CONFIGS")) for acl in to_nats),
            *(Acl("group", f"{app_id}.nats", False, ("READ",)) for _ in to_nats),
        )
    owned = (*names.inboxes, names.journal, names.control)
    if role == "operator":
        every = (*owned, names.deadletter, names.replayed, names.fence, *(acl.name for acl in to_nats))
        operations = ("READ", "WRITE", "CREATE", "DELETE", "ALTER", "DESCRIBE_CONFIGS", "ALTER_CONFIGS")
        return (
            *(Acl("topic", name, False, operations) for name in every),
            Acl("topic", replies, True, ("READ", "DELETE")),
            Acl("group", app_id, False, ("READ", "DELETE")),
            Acl("transactional-id", leases, True, ("WRITE",)),
        )
    return (
        *(Acl("topic", acl.name, False, ("WRITE", "DESCRIBE_CONFIGS")) for acl in to_nats),
        *(Acl("topic", name, False, ("READ", "WRITE", "DESCRIBE_CONFIGS")) for name in owned),
        *(Acl("topic", name, False, ("WRITE", "DESCRIBE_CONFIGS")) for name in (names.deadletter, names.fence)),
        Acl("topic", names.replayed, False, ("DESCRIBE", "DESCRIBE_CONFIGS")),
        Acl("topic", replies, True, ("WRITE",)),
        Acl("group", app_id, False, ("READ",)),
        Acl("transactional-id", leases, True, ("WRITE",)),
    )


async def check(app_id: str, client_kwargs: Mapping[str, Any], role: str, nats_out: bool = False) -> None:
    """Ask the broker whether a worker or an edge may do what it needs; topics that do not exist yet are left out.

    Raises NotAuthorized naming all that is missing. Transactional ids and reply topics can't be asked for: the start-up
    check of the fence tries the former; a worker logs a reply that may not be written, an edge uses `check_replies`.
    """
    acls = needed(app_id, role, nats_out)
    literal = {acl.name: acl.operations for acl in acls if acl.resource == "topic" and not acl.prefixed}
    groups = [acl.name for acl in acls if acl.resource == "group"]
    async with admin.admin(client_kwargs) as client:
        missing = await _missing(client, literal)
        missing += [f"READ on group {name}" for name in groups if not await _may_join(client, name)]
    if missing:
        raise NotAuthorized(", ".join(missing))


async def check_replies(
    app_id: str, client_kwargs: Mapping[str, Any], role: str, nats_out: bool, reply_topic: str
) -> None:
    """The same for what a role may do with reply topics, asked for one that exists."""
    acls = [acl for acl in needed(app_id, role, nats_out) if acl.resource == "topic" and acl.prefixed]
    async with admin.admin(client_kwargs) as client:
        missing = await _missing(client, {reply_topic: [name for acl in acls for name in acl.operations]})
    if missing:
        raise NotAuthorized(", ".join(missing))


async def _missing(client: Any, wanted: Mapping[str, Sequence[str]]) -> list[str]:
    """What we may not do, of operations by topic."""
    allowed = await permitted(client._client, list(wanted))
    return [
        f"{operation} on topic {name}"
        for name, operations in wanted.items()
        if (bits := allowed.get(name)) is not None
        for operation in operations
        if not bits >> OPERATIONS[operation] & 1
    ]


async def _may_join(client: Any, group: str) -> bool:
    """Whether the broker lets us into the group: it checks that before it finds that there is no such member."""
    try:
        coordinator = await client.find_coordinator(group)
    except GroupAuthorizationFailedError:
        return False
    except COORDINATOR_NOT_READY:
        return True  # a new broker; joining waits for it
    answer = await client._send_request(HeartbeatRequest(group, -1, "nobody"), coordinator)
    return for_code(answer.error_code) is not GroupAuthorizationFailedError


def commands(acls: Sequence[Acl], broker: str, principal: str) -> str:
    """The commands that allow all of it, one a line."""
    return "\n".join(acl.command(broker, principal) for acl in acls)
