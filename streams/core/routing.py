"""Where a message goes: the topics of one application and the partition of a target."""

from typing import Protocol

from rookery.schemas.address import NATS_TYPE, parse_client, partition_of
from rookery.schemas.envelope import Envelope, seal
from rookery.streams.core.batch import Sent
from rookery.streams.core.outbox import Destination

# Cached routes; an address costs about 200 bytes.
_ROUTES_MAX = 100_000


class Unrouted(Protocol):
    """A message as a turn leaves it; agents.effects.Outgoing."""

    @property
    def target(self) -> str: ...  # noqa: D102
    @property
    def priority(self) -> int: ...  # noqa: D102
    @property
    def body(self) -> bytes: ...  # noqa: D102
    @property
    def correlation_id(self) -> str: ...  # noqa: D102


class Topics:
    """The names of an application's topics."""

    def __init__(self, app_id: str) -> None:
        self.app_id = app_id
        self.inboxes = tuple(f"{app_id}.inbox.{name}" for name in ("low", "normal", "high"))  # by lane
        self.journal = f"{app_id}-journal-changelog"
        self.deadletter = f"{app_id}.deadletter"
        self.replayed = f"{app_id}.replayed"
        self.fence = f"{app_id}.fence"
        self.control = f"{app_id}.control"
        self.nats = f"{app_id}.nats"

    def replies(self, client: str) -> str:
        """The reply topic of a client; one partition."""
        return f"{self.app_id}.replies.{client}"

    def is_replies(self, topic: str) -> bool:
        """Whether a topic is the reply topic of some client; those may vanish with it."""
        return topic.startswith(f"{self.app_id}.replies.")


class Router:
    """Resolves targets to destinations, with a bounded cache per lane."""

    def __init__(self, topics: Topics, partitions: int, nats_out: bool = False) -> None:
        """`nats_out`: there is a topic for what goes to `nats/<subject>`; else that is an agent of an unknown type."""
        self.topics = topics
        self.partitions = partitions
        self._nats_out = nats_out
        self.clients: dict[str, Destination] = {}  # reply topics of clients that read envelopes
        self.routes: tuple[dict[str, tuple[Destination, bytes]], ...] = ({}, {}, {})

    def inbox(self, target: str, lane: int) -> tuple[Destination, bytes]:
        """(topic, partition) and record key of an agent's inbox in a lane."""
        routes = self.routes[lane]
        route = routes.get(target)
        if route is None:
            if len(routes) >= _ROUTES_MAX:
                routes.clear()
            to_nats = self._nats_out and target.startswith(f"{NATS_TYPE}/")
            topic = self.topics.nats if to_nats else self.topics.inboxes[lane]
            destination = (topic, partition_of(target, self.partitions))
            route = routes[target] = (destination, target.encode())
        return route

    def sent(self, message: Unrouted) -> Sent:
        """Resolve a message: to an agent's inbox, or to the reply topic of a client in the form that it reads."""
        target = message.target
        destination = self.clients.get(target)
        if destination is None:
            client = parse_client(target) if ":" in target else None
            if client is None:
                lane = message.priority
                destination, key = self.routes[lane].get(target) or self.inbox(target, lane)
                return Sent(destination, key, message.body, True)
            form, name = client
            destination = (self.topics.replies(name), 0)
            if form == "json":
                key = message.correlation_id.encode()
                return Sent(destination, key, Envelope.FromString(message.body).payload, False)
            if len(self.clients) >= _ROUTES_MAX:
                self.clients.clear()
            self.clients[target] = destination
        return Sent(destination, message.correlation_id.encode(), seal(message.body), False)
