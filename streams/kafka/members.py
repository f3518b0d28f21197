"""The workers of an application, as its consumer group and the workers themselves tell it now."""

import asyncio
import json
import re
from typing import Any, NamedTuple

import aiohttp
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

# A worker whose pages are out of reach is shown without its agents; seconds.
ASK_TIMEOUT = 2.0
_LIVE = re.compile(r'^rookery_live_agents\{agent_type="([^"]+)"\} ([0-9.e+]+)$', re.MULTILINE)


class Member(NamedTuple):
    """A worker: the address of its pages, the partitions that it is assigned, and its agents in memory by type (None
    where its pages can't be read from here)."""

    url: str
    host: str
    partitions: list[int]
    live: dict[str, int] | None


async def members(client: AIOKafkaAdminClient, group: str, inbox: str, token: str = "") -> list[Member]:
    """All workers of a group, by address; `token` is that of their pages. Raises KafkaError."""
    described = (await client.describe_consumer_groups([group]))[0].groups
    found = [_member(fields, inbox) for entry in described for fields in entry[5]]
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(ASK_TIMEOUT), headers=headers) as session:
        live = await asyncio.gather(*(_live(session, member.url) for member in found))
    return sorted(member._replace(live=counts) for member, counts in zip(found, live, strict=True))


def _member(fields: Any, inbox: str) -> Member:
    _, _, host, metadata, assignment = fields
    url, partitions = "", []
    if metadata:
        url = json.loads(ConsumerProtocolMemberMetadata.decode(metadata).user_data).get("url", "")
    if assignment:
        assigned = ConsumerProtocolMemberAssignment.decode(assignment).partitions()
        partitions = sorted(tp.partition for tp in assigned if tp.topic == inbox)
    return Member(url, host, partitions, None)


async def _live(session: aiohttp.ClientSession, url: str) -> dict[str, int] | None:
    try:
        async with session.get(f"{url.rstrip('/')}/metrics") as response:
            response.raise_for_status()
            page = await response.text()
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return None
    return {name: int(float(count)) for name, count in _LIVE.findall(page)}
