"""`assign()` in Faust's assignor: what members say about themselves goes in, who owns which partition comes out.

Kept from Faust: the group protocol and its metadata, the assignor of topics that are not ours, the map of who has which
table. Replaced: who gets the inboxes and the journal. The name of the protocol is our own. A broker refuses a member
that offers only another one, so two kinds of assignors are never mixed: a worker of a release without this one can't
join, and its running colleagues are not disturbed. Later releases keep the name and add fields.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

from faust.assignor.client_assignment import ClientAssignment, ClientMetadata, CopartitionedAssignment
from faust.assignor.cluster_assignment import ClusterAssignment
from faust.assignor.copartitioned_assignor import CopartitionedAssignor
from faust.assignor.partition_assignor import PartitionAssignor

from rookery.streams.core.assign import Assignment, Member, assign
from rookery.streams.core.fleet import Fleet, Share, Standing, decode_fleet, decode_standing

if TYPE_CHECKING:
    from rookery.streams.kafka.app import App

log = logging.getLogger(__name__)

NAME = "rookery-1"


class Metadata(ClientMetadata, serializer="json", include_metadata=False, namespace="@ClientMetadata"):
    """Faust's metadata with ours beside it: the standing of a member that joins, the fleet for one that is assigned."""

    standing: str = ""
    fleet: str = ""


class WeightedAssignor(PartitionAssignor):
    """See the head of this module. Used from the consumer's thread; `standing` is set whole, by the balancer."""

    app: App

    def __init__(self, app: App, replicas: int = 0) -> None:
        """Made by Faust."""
        super().__init__(app, replicas)
        self.standing = Standing(app.worker_name)
        self.fleet = Fleet()
        self.assigned_count = 0  # assignments received

    @property
    def name(self) -> str:
        """Of the group protocol."""
        return NAME

    @property
    def owned(self) -> frozenset[int]:
        """Partitions that this worker was assigned last."""
        return frozenset(self._assignment.actives.get(self.app.topic_names.journal, ()))

    @property
    def _metadata(self) -> Metadata:
        """Sent with every JoinGroup."""
        journal = self.app.topic_names.journal
        standing = self.standing
        own = {
            "owned": tuple(sorted(self._assignment.actives.get(journal, ()))),
            "copies": tuple(sorted(self._assignment.standbys.get(journal, ()))),
            "generation": self.fleet.generation,
        }
        fields = {name: getattr(standing, name) for name in standing.__struct_fields__}
        return Metadata(
            assignment=self._assignment,
            url=str(self._url),
            changelog_distribution={},
            topic_groups={},
            standing=Standing(**{**fields, **own}).encode(),
        )

    @classmethod
    def _get_client_metadata(cls, metadata: Any) -> ClientMetadata:
        return cast("ClientMetadata", Metadata.loads(metadata.user_data))

    def on_assignment(self, assignment: Any) -> None:
        """Take what the leader sent; a static member gets what it had before it was started again."""
        metadata = cast("Metadata", Metadata.loads(self._decompress(assignment.user_data)))
        self._assignment = metadata.assignment
        self._topic_groups = dict(metadata.topic_groups)
        self._active_tps = self._assignment.active_tps
        self._standby_tps = self._assignment.standby_tps
        self.changelog_distribution = metadata.changelog_distribution
        self.external_topic_distribution = metadata.external_topic_distribution
        self.fleet = decode_fleet(metadata.fleet)
        self.assigned_count += 1

    # -- the leader's part --------------------------------------------------------------------------------------------

    def _perform_assignment(self, cluster: Any, member_metadata: Mapping[str, Any]) -> Any:
        clients = {member: self._get_client_metadata(metadata) for member, metadata in member_metadata.items()}
        subscriptions = {member: list(metadata.subscription) for member, metadata in member_metadata.items()}
        known = ClusterAssignment()
        for member, metadata in clients.items():
            known.add_client(member, subscriptions[member], metadata)
        self._update_member_urls(clients)
        standings = {m: decode_standing(cast("Metadata", found).standing) for m, found in clients.items()}
        result = {member: ClientAssignment(actives={}, standbys={}) for member in clients}
        counts: dict[str, int] = {}
        group_ids: dict[str, int] = {}
        fleet = Fleet()
        for group_id, (count, topics) in enumerate(self._groups(cluster, subscriptions)):
            counts.update(dict.fromkeys(topics, count))
            group_ids.update(dict.fromkeys(topics, group_id))
            if self.app.topic_names.journal in topics:
                fleet, shares = self._weighted(standings, count, topics)
            else:
                group = known.copartitioned_assignments(topics)
                shares = dict(CopartitionedAssignor(topics, group, count, self.replicas).get_assignment())
            for member, share in shares.items():
                result[member].add_copartitioned_assignment(share)
        done = self._global_table_standby_assignments(result, counts)
        answers = self._protocol_assignments(
            done, self._get_changelog_distribution(done), self._get_external_topic_distribution(done), group_ids
        )
        for answer in answers.values():
            metadata = cast("Metadata", Metadata.loads(self._decompress(answer.user_data)))
            metadata.fleet = fleet.encode()
            answer.user_data = self._compress(metadata.dumps())
        return answers

    def _groups(self, cluster: Any, subscriptions: Mapping[str, Iterable[str]]) -> list[tuple[int, set[str]]]:
        """Topics that move together: those with as many partitions and the same subscribers. In a fixed order."""
        subscribers: dict[str, set[str]] = defaultdict(set)
        for member, topics in subscriptions.items():
            for topic in topics:
                subscribers[topic].add(member)
        groups: dict[tuple[int, frozenset[str]], set[str]] = defaultdict(set)
        for topic, members in subscribers.items():
            count = len(cluster.partitions_for_topic(topic) or ())
            if count:
                groups[count, frozenset(members)].add(topic)
            else:
                log.warning("topic %s is not there (yet): nobody gets its partitions", topic)
        return sorted(((count, topics) for (count, _), topics in groups.items()), key=lambda g: (g[0], sorted(g[1])))

    def _weighted(
        self, standings: Mapping[str, Standing], count: int, topics: set[str]
    ) -> tuple[Fleet, dict[str, CopartitionedAssignment]]:
        members = [returned(self.fleet, standing).member(member) for member, standing in standings.items()]
        found = assign(members, count, standbys=self.replicas)
        fleet = fleet_of(found, standings, members)
        log.info(
            "assigned %s%s",
            ", ".join(f"{len(share.owned)} to {share.name} ({share.weight:.2f})" for share in fleet.workers),
            f"; {len(fleet.postponed)} move later" if fleet.postponed else "",
        )
        return fleet, {
            m.name: CopartitionedAssignment(set(found.of(m.name)), set(found.copies_of(m.name)), set(topics))
            for m in members
        }


def returned(fleet: Fleet, standing: Standing) -> Standing:
    """A worker that was started again remembers nothing: it owns what the fleet last had under its name."""
    if standing.generation:
        return standing
    share = fleet.share(standing.name)
    fields = {name: getattr(standing, name) for name in standing.__struct_fields__}
    return Standing(**{**fields, "owned": share.owned, "generation": fleet.generation})


def fleet_of(found: Assignment, standings: Mapping[str, Standing], members: Iterable[Member]) -> Fleet:
    """An assignment in the names of workers."""
    by_name = {member.name: member for member in members}
    postponed = found.postponed
    return Fleet(
        max(member.generation for member in by_name.values()) + 1,
        tuple(
            Share(standing.name, standing.weight, tuple(sorted(found.of(m))), tuple(sorted(found.copies_of(m))))
            for m, standing in sorted(standings.items(), key=lambda item: (item[1].name, item[0]))
        ),
        {p: standings[to].name for p, to in postponed.items()},
        tuple(p for p, to in postponed.items() if found.standbys[p] and p not in by_name[to].warm),
    )
