"""Which application an id stands for: the record `registration` in its control topic, checked at every start.

Two programs with one id would hand each other their messages, which end as dead letters, and a topic that was deleted
and made again looks like the old one, whose offsets and state mean something else. So a worker starts only if it knows
all registered agent types, in their registered state version or a later one, and finds the registered topics.

    allowed     more agent types, later state versions: the record is extended (a rolling upgrade does that)
    refused     agent types missing, an earlier state version, other partitions, topics made again

An old worker that is started again in the middle of an upgrade is refused: it could not handle the new types. What was
changed on purpose is accepted by `faust -A <module> topics accept`, with all workers stopped.
"""

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from rookery.agents.types import Registry
from rookery.ops.settings import Settings
from rookery.schemas.errors import ConfigurationError, OtherApplication, RookeryError, WrongTopic
from rookery.streams.core.routing import Topics
from rookery.streams.kafka import topics
from rookery.streams.kafka.control import Control
from rookery.streams.kafka.topicids import topic_ids

log = logging.getLogger(__name__)

NAME = "registration"
FORMAT = 1
ACCEPT = "faust -A <module> topics accept"


@dataclass(frozen=True)
class Registration:
    """What an application id stands for: agent types with the versions of their states, topics with their ids."""

    partitions: int
    agents: Mapping[str, int]
    topics: Mapping[str, str]
    accepted: bool = False  # an operator has put it in the place of the one before

    def encode(self) -> bytes:
        """The value of the record: JSON."""
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True).encode()


def decode(app_id: str, value: bytes) -> Registration:
    """Read a record. Raises OtherApplication for one that this version can't read."""
    try:
        fields = json.loads(value)
        if fields.pop("format") == FORMAT:
            return Registration(**fields)
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise OtherApplication(app_id, f"its record {NAME!r} in the control topic can't be read by this version", ACCEPT)


def refusals(app_id: str, known: Registration, found: Registration) -> list[RookeryError]:
    """Why what was found must not run under the id that stands for what is known; empty if it may."""
    problems: list[RookeryError] = []
    if known.partitions != found.partitions:
        why = f"it has {known.partitions} partitions and this worker is set to {found.partitions}"
        problems.append(OtherApplication(app_id, why, f"export ROOKERY_PARTITIONS={known.partitions}"))
    missing = sorted(known.agents.keys() - found.agents.keys())
    if missing:
        why = f"it has agent types that this worker does not know: {', '.join(missing[:20])}"
        problems.append(OtherApplication(app_id, why, ACCEPT))
    for name, version in sorted(found.agents.items()):
        if version < known.agents.get(name, version):
            why = f"states of {name} have version {known.agents[name]}, this worker knows {version}"
            problems.append(OtherApplication(app_id, why, ACCEPT))
    for name, topic_id in found.topics.items():
        if topic_id != known.topics.get(name, topic_id):
            why = "was deleted and made again: what its application remembers of it means other records"
            problems.append(WrongTopic(name, why, f"{ACCEPT} (with all workers stopped)"))
    return problems


def current(app_id: str, history: Iterable[bytes]) -> Registration | None:
    """The one that counts: of two that started at the same moment, the first. Raises OtherApplication."""
    known: Registration | None = None
    for value in history:
        found = decode(app_id, value)
        if known is None or found.accepted or not refusals(app_id, known, found):
            known = found
    return known


def extended(known: Registration, found: Registration) -> Registration:
    """What is known, with what was found and allowed."""
    return replace(
        known, accepted=False, agents={**known.agents, **found.agents}, topics={**known.topics, **found.topics}
    )


async def find(settings: Settings, registry: Registry, client_kwargs: Mapping[str, Any]) -> Registration:
    """What this process would register, with the topics as they are now. Raises KafkaError, IncompatibleVersion."""
    names = Topics(settings.app_id)
    watched = (*names.inboxes, names.journal)
    async with topics.admin(client_kwargs) as client:
        ids = await topic_ids(client._client, watched)
    agents = {name: registry.get(name).state_version for name in registry.names()}
    return Registration(
        settings.partitions, agents, {name: topic_id.hex() for name, (topic_id, _) in zip(watched, ids, strict=True)}
    )


async def register(
    settings: Settings, registry: Registry, client_kwargs: Mapping[str, Any], *, accept: bool = False
) -> None:
    """Check this process against the registration and extend that; with `accept`, put this process in its place.

    Raises OtherApplication, WrongTopic, or ConfigurationError with all of them.
    """
    found = await find(settings, registry, client_kwargs)
    control = Control(Topics(settings.app_id).control, client_kwargs)
    if accept:
        await control.write(NAME, replace(found, accepted=True).encode())
        return
    known = current(settings.app_id, await control.history(NAME))
    if known is not None:
        _refuse(refusals(settings.app_id, known, found))
    wanted = found if known is None else extended(known, found)
    if known is not None and known.agents == wanted.agents and known.topics == wanted.topics:
        return
    await control.write(NAME, wanted.encode())
    known = current(settings.app_id, await control.history(NAME)) or wanted
    if problems := refusals(settings.app_id, known, found):
        await control.write(NAME, known.encode())  # another one was first: compaction must keep that
        _refuse(problems)
    log.info("registered %s with agent types %s", settings.app_id, ", ".join(sorted(wanted.agents)))


def _refuse(problems: list[RookeryError]) -> None:
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise ConfigurationError(str(problem) for problem in problems)
