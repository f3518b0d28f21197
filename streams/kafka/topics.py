"""The topics of an application: one table of names, counts and policies; made when missing, refused when wrong.

A policy that is wrong breaks a promise silently: a journal that is not compacted fills the disk, one with the sender's
timestamps may lose a newer record to compaction, inboxes with other counts send an agent's messages past its state.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Protocol

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupIdNotFound,
    GroupLoadInProgressError,
    NonEmptyGroup,
    NotCoordinatorForGroupError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.admin import DeleteGroupsRequest
from aiokafka.protocol.metadata import MetadataRequest

from rookery.schemas.errors import ConfigurationError, NotAuthorized, WrongTopic
from rookery.streams.core.routing import Topics
from rookery.streams.kafka import security

HOUR_MS = 3_600_000
GONE_SECONDS_MAX = 10.0  # a broker may take so long to hear that topics are gone
# How long a coordinator may take to read its groups before one of them can be deleted.
GROUP_SECONDS_MAX = 30.0
DAY_MS = 24 * HOUR_MS
# Longer than a worker may sleep and still append under an old lease: its records must be there for recovery to judge.
COMPACTION_LAG_MS = DAY_MS
# Longer than a local store may be behind its journal; a deletion it never saw would bring the key back.
TOMBSTONES_KEPT_MS = 7 * DAY_MS
REPLIES_RETENTION_MS = HOUR_MS
FENCE_PARTITIONS = 3
# A dead letter holds the refused record whole, with the reason and a traceback around it.
DEAD_LETTER_EXTRA_BYTES = 262_144
# Kafka deletes whole segments, so a letter may outlive its retention by the time that a segment takes to fill, at most
# segment.ms (7 days by default); its mark must outlive it. Seconds.
MARKS_KEPT_MORE = 14 * 86_400.0
MIN_INSYNC = "min.insync.replicas"
REPLICAS_WANTED = 3  # with fewer, an acknowledged message does not survive the loss of a disk while a broker is away
CREATION_TIMEOUT = 15.0  # seconds until a new topic is visible with all its partitions

# For these a larger value than ours keeps the promise, too; -1 stands for no limit.
AT_LEAST = frozenset({"delete.retention.ms", "max.message.bytes", "min.compaction.lag.ms", MIN_INSYNC, "retention.ms"})
NO_ERROR, UNKNOWN, EXISTS = 0, UnknownTopicOrPartitionError.errno, TopicAlreadyExistsError.errno


class TopicSettings(Protocol):
    """What this module reads of `Settings`; durations are seconds, sizes bytes."""

    @property
    def app_id(self) -> str: ...  # noqa: D102
    @property
    def broker(self) -> str: ...  # noqa: D102
    @property
    def partitions(self) -> int: ...  # noqa: D102
    @property
    def replication_factor(self) -> int | None: ...  # noqa: D102
    @property
    def min_insync_replicas(self) -> int | None: ...  # noqa: D102
    @property
    def inbox_retention(self) -> float: ...  # noqa: D102
    @property
    def deadletter_retention(self) -> float: ...  # noqa: D102
    @property
    def topic_bytes_max(self) -> int: ...  # noqa: D102
    @property
    def nats_out(self) -> bool: ...  # noqa: D102


class TopicSpec(NamedTuple):
    """A topic as it must be; `policy` in Kafka's own names. Replicas None: as many as the cluster offers when made."""

    name: str
    partitions: int
    replication_factor: int | None
    policy: Mapping[str, str]


class Found(NamedTuple):
    """A topic as it is; `replication_factor` of the partition with the fewest replicas."""

    partitions: int
    replication_factor: int
    policy: Mapping[str, str]


def specs(settings: TopicSettings) -> tuple[TopicSpec, ...]:
    """All topics of an application except the clients' reply topics."""
    names = Topics(settings.app_id)
    count, size = settings.partitions, settings.topic_bytes_max
    inbox = {"cleanup.policy": "delete", "retention.ms": _ms(settings.inbox_retention), "max.message.bytes": str(size)}
    journal = {
        "cleanup.policy": "compact",
        "message.timestamp.type": "LogAppendTime",
        "min.compaction.lag.ms": str(COMPACTION_LAG_MS),
        "delete.retention.ms": str(TOMBSTONES_KEPT_MS),
        # A dead letter leaves through an outbox slot in here.
        "max.message.bytes": str(size + DEAD_LETTER_EXTRA_BYTES),
    }
    dead = {
        "cleanup.policy": "delete",
        "retention.ms": _ms(settings.deadletter_retention),
        "max.message.bytes": str(size + DEAD_LETTER_EXTRA_BYTES),
    }
    return (
        *(_spec(settings, name, count, inbox) for name in names.inboxes),
        _spec(settings, names.journal, count, journal),
        _spec(settings, names.deadletter, count, dead),
        replayed_spec(settings),
        _spec(settings, names.fence, FENCE_PARTITIONS, {"cleanup.policy": "compact"}),
        _spec(settings, names.control, 1, {"cleanup.policy": "compact"}),
        *((_spec(settings, names.nats, count, inbox),) if settings.nats_out else ()),
    )


def replies_spec(settings: TopicSettings, client: str) -> TopicSpec:
    """The reply topic of one client; it makes it itself and removes it when it leaves."""
    policy = {
        "cleanup.policy": "delete",
        "retention.ms": str(REPLIES_RETENTION_MS),
        "max.message.bytes": str(settings.topic_bytes_max),
    }
    return _spec(settings, Topics(settings.app_id).replies(client), 1, policy)


def replayed_spec(settings: TopicSettings) -> TopicSpec:
    """The marks of letters that were sent again; partition p has those of the letters of partition p."""
    policy = {"cleanup.policy": "delete", "retention.ms": _ms(settings.deadletter_retention + MARKS_KEPT_MORE)}
    return _spec(settings, Topics(settings.app_id).replayed, settings.partitions, policy)


def _spec(settings: TopicSettings, name: str, partitions: int, policy: Mapping[str, str]) -> TopicSpec:
    safety = {} if settings.min_insync_replicas is None else {MIN_INSYNC: str(settings.min_insync_replicas)}
    safety["unclean.leader.election.enable"] = "false"
    return TopicSpec(name, partitions, settings.replication_factor, {**policy, **safety})


def _ms(seconds: float) -> str:
    return str(round(seconds * 1000))


def problems(spec: TopicSpec, found: Found | None, broker: str) -> list[WrongTopic]:
    """What is wrong with a topic, each with the command that mends it; empty when it keeps our promises."""
    server = f"--bootstrap-server {broker}"
    if found is None:
        configs = "".join(f" --config {key}={value}" for key, value in spec.policy.items())
        create = f"kafka-topics.sh {server} --create --topic {spec.name} --partitions {spec.partitions}"
        if spec.replication_factor is not None:
            create += f" --replication-factor {spec.replication_factor}"
        return [WrongTopic(spec.name, "does not exist", create + configs)]
    wrong = []
    is_fence = spec.name.endswith(".fence")
    if found.partitions != spec.partitions and not (is_fence and found.partitions > spec.partitions):
        why = f"has {found.partitions} partitions where {spec.partitions} are needed"
        if is_fence:
            # Never deleted: tokens would begin anew. A lock's partition depends on the wanted number, not on this one.
            mend = f"kafka-topics.sh {server} --alter --topic {spec.name} --partitions {spec.partitions}"
        elif spec.name.endswith(".control"):
            # Rules are found by key: more partitions hide the old ones, so they start afresh.
            mend = f"kafka-topics.sh {server} --delete --topic {spec.name}"
        else:
            why += ": the agents of other partitions would lose their messages and state"
            mend = f"export ROOKERY_PARTITIONS={found.partitions}"
        wrong.append(WrongTopic(spec.name, why, mend))
    if spec.replication_factor is not None and found.replication_factor < spec.replication_factor:
        why = f"has {found.replication_factor} replicas where {spec.replication_factor} are needed"
        mend = f"kafka-reassign-partitions.sh {server} --execute --reassignment-json-file {spec.name}.json"
        wrong.append(WrongTopic(spec.name, why, mend))
    bad = {key: value for key, value in spec.policy.items() if not _keeps(key, value, found.policy.get(key))}
    if bad:
        states = ", ".join(f"{key} is {found.policy.get(key)} and must be {_wanted(key, bad[key])}" for key in bad)
        values = ",".join(f"{key}={value}" for key, value in bad.items())
        mend = f"kafka-configs.sh {server} --alter --entity-type topics --entity-name {spec.name} --add-config {values}"
        wrong.append(WrongTopic(spec.name, states, mend))
    return wrong


def _keeps(key: str, wanted: str, found: str | None) -> bool:
    if found is None or found == wanted:
        return found is not None
    return key in AT_LEAST and (int(found) == -1 or int(found) >= int(wanted))


def _wanted(key: str, value: str) -> str:
    return f"at least {value}" if key in AT_LEAST else value


@asynccontextmanager
async def admin(client_kwargs: Mapping[str, Any]) -> AsyncIterator[AIOKafkaAdminClient]:
    """An admin client for the block; raises BrokerUnreachable, NotAuthenticated, also NotAuthorized in the block."""
    client = AIOKafkaAdminClient(**client_kwargs)
    try:
        async with security.explained(client_kwargs):
            await client.start()
            yield client
    finally:
        await client.close()


async def inspect(client: AIOKafkaAdminClient, wanted: Sequence[TopicSpec]) -> dict[str, Found | None]:
    """How the topics are in the cluster, by name; None for one that does not exist."""
    names = [spec.name for spec in wanted]
    # A broker may make topics that are asked for, with its defaults; `describe_topics` would have it do so.
    metadata = await client._send_request(MetadataRequest(names, allow_auto_topic_creation=False))
    described = {topic["topic"]: topic["partitions"] for topic in metadata.to_object()["topics"]}
    resources = [
        ConfigResource(ConfigResourceType.TOPIC, spec.name, configs=dict.fromkeys(spec.policy)) for spec in wanted
    ]
    found: dict[str, Found | None] = dict.fromkeys(names)
    for response in await client.describe_configs(resources):
        for code, message, _, name, entries in response.resources:
            partitions = described.get(name)
            if code == UNKNOWN or not partitions:
                continue
            if code != NO_ERROR:
                raise _refusal(code, "DESCRIBE_CONFIGS", name, f"describing {name}: {message}")
            replicas = min(len(partition["replicas"]) for partition in partitions)
            found[name] = Found(len(partitions), replicas, {entry[0]: entry[1] for entry in entries})
    return found


def _refusal(code: int, operation: str, name: str, said: str) -> Exception:
    """What an answer about a topic means."""
    if code == TopicAuthorizationFailedError.errno:
        return NotAuthorized(f"{operation} on topic {name}")
    error: Exception = for_code(code)(said)
    return error


def fitted(spec: TopicSpec, brokers: int) -> TopicSpec:
    """The topic with the copies that so many brokers can keep, where it does not say itself how many.

    Raises ConfigurationError if it says more than the cluster can keep.
    """
    factor = spec.replication_factor or min(REPLICAS_WANTED, brokers)
    if factor > brokers:
        raise ConfigurationError(
            f"replication_factor is {factor}, but the cluster has {brokers} live brokers: start more, "
            f"or set ROOKERY_REPLICATION_FACTOR={brokers}"
        )
    in_sync = int(spec.policy.get(MIN_INSYNC, max(1, factor - 1)))
    if in_sync > factor:
        raise ConfigurationError(
            f"min_insync_replicas is {in_sync}, but {brokers} live brokers keep {factor} copies: start more, "
            f"or set ROOKERY_MIN_INSYNC_REPLICAS={factor}"
        )
    return spec._replace(replication_factor=factor, policy={**spec.policy, MIN_INSYNC: str(in_sync)})


async def create(client: AIOKafkaAdminClient, wanted: Iterable[TopicSpec]) -> list[str]:
    """Make topics, wait until they are visible, and return the names of those that were not there before.

    Raises KafkaError when the broker refuses, TimeoutError when a topic does not become visible in time,
    ConfigurationError when the cluster has too few brokers.
    """
    brokers = len(client._client.cluster.brokers())
    todo = [fitted(spec, brokers) for spec in wanted]
    if not todo:
        return []
    new = [NewTopic(s.name, s.partitions, s.replication_factor, topic_configs=dict(s.policy)) for s in todo]
    made = []
    for name, code, message in (await client.create_topics(new)).topic_errors:
        if code not in (NO_ERROR, EXISTS):
            raise _refusal(code, "CREATE", name, f"creating topic {name}: {message}")
        if code == NO_ERROR:
            made.append(name)
    await visible(client, todo)
    return made


async def visible(client: AIOKafkaAdminClient, wanted: Sequence[TopicSpec]) -> dict[str, Found | None]:
    """Wait until the topics are there, and return how they are; raises TimeoutError.

    Any broker may be asked, and one may know less than the one that was asked before.
    """
    deadline = time.monotonic() + CREATION_TIMEOUT
    while not all((found := await inspect(client, wanted)).values()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"new topics are not visible after {CREATION_TIMEOUT:g} s; check the brokers' health")
        await asyncio.sleep(0.05)
    return found


async def ensure(
    settings: TopicSettings, client_kwargs: Mapping[str, Any], *, make: bool = True, only: str = ""
) -> list[str]:
    """Make the application's missing topics (unless `make` is false), check all, and return the names of the new ones.

    `only` is the name of a topic to which that is limited.

    Raises WrongTopic when one is wrong, ConfigurationError with all of them when several are.
    """
    wanted = [spec for spec in specs(settings) if only in ("", spec.name)]
    async with admin(client_kwargs) as client:
        found = await inspect(client, wanted)
        made = []
        if make:
            made = await create(client, [spec for spec in wanted if found[spec.name] is None])
            found = await visible(client, wanted)
    wrong = [problem for spec in wanted for problem in problems(spec, found[spec.name], settings.broker)]
    if len(wrong) == 1:
        raise wrong[0]
    if wrong:
        raise ConfigurationError(str(problem) for problem in wrong)
    return made


async def remove(app_id: str, client_kwargs: Mapping[str, Any]) -> list[str]:
    """Delete an application's topics, reply topics too, with everything in them, and its group; returns the topics."""
    names = Topics(app_id)
    ours = {*names.inboxes, names.journal, names.deadletter, names.replayed, names.fence, names.control, names.nats}
    async with admin(client_kwargs) as client:
        there = [name for name in await client.list_topics() if name in ours or names.is_replies(name)]
        if there:
            for name, code in (await client.delete_topics(there)).topic_error_codes:
                if code not in (NO_ERROR, UNKNOWN):
                    raise for_code(code)(f"deleting topic {name}")
        await _remove_group(client, app_id)
        deadline = time.monotonic() + GONE_SECONDS_MAX
        # They are gone for the controller; who makes them again at once must not find them at a slower broker.
        while time.monotonic() < deadline and set(there) & set(await client.list_topics()):  # noqa: ASYNC110 - asks it
            await asyncio.sleep(0.05)
    return there


async def _remove_group(client: AIOKafkaAdminClient, app_id: str) -> None:
    """Forget what the group has committed, else an application of that name would seem to have handled messages."""
    deadline = time.monotonic() + GROUP_SECONDS_MAX
    while True:
        try:
            coordinator = await client.find_coordinator(app_id)
        except GroupCoordinatorNotAvailableError:
            return  # a new broker, where no group has been yet
        response = await client._send_request(DeleteGroupsRequest([app_id]), coordinator)
        code = response.results[0][1]
        # One with members is left: its workers stop by themselves, now that the topics are gone.
        if code in (NO_ERROR, GroupIdNotFound.errno, NonEmptyGroup.errno):
            return
        # A coordinator that has just started reads its groups first.
        if (
            code not in (GroupLoadInProgressError.errno, NotCoordinatorForGroupError.errno)
            or time.monotonic() > deadline
        ):
            raise for_code(code)(f"deleting the group {app_id}")
        await asyncio.sleep(0.2)
