"""Where a message goes: the topics of one application and the partition of a target."""

from rookery.schemas.address import partition_of
from rookery.streams.core.outbox import Destination

# Cached routes; an address costs about 200 bytes.
_ROUTES_MAX = 100_000

CLIENT = "client:"
JSON_CLIENT = "json:"


class Topics:
    """The names of an application's topics."""

    def __init__(self, app_id: str) -> None:
        self.app_id = app_id
        self.inboxes = tuple(f"{app_id}.inbox.{name}" for name in ("low", "normal", "high"))  # by lane
        self.journal = f"{app_id}-journal-changelog"
        self.deadletter = f"{app_id}.deadletter"
        self.fence = f"{app_id}.fence"
        self.control = f"{app_id}.control"

    def replies(self, client: str) -> str:
        """The reply topic of a client; one partition."""
        return f"{self.app_id}.replies.{client}"


class Router:
    """Resolves targets to destinations, with a bounded cache per lane."""

    def __init__(self, topics: Topics, partitions: int) -> None:
        self.topics = topics
        self.partitions = partitions
        self._routes: tuple[dict[str, tuple[Destination, bytes]], ...] = ({}, {}, {})

    def inbox(self, target: str, lane: int) -> tuple[Destination, bytes]:
        """(topic, partition) and record key of an agent's inbox in a lane."""
        routes = self._routes[lane]
        route = routes.get(target)
        if route is None:
            if len(routes) >= _ROUTES_MAX:
                routes.clear()
            destination = (self.topics.inboxes[lane], partition_of(target, self.partitions))
            route = routes[target] = (destination, target.encode())
        return route
