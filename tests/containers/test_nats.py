"""The NATS edge in a container of our image, between Kafka and NATS as their vendors ship them."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import nats
import pytest
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

from tests.containers.kit import NATS, WAIT, Broker, Crew, Ours, eventually, tagged

MESSAGES = 300


@pytest.fixture
def uri(network: Network, owner: str) -> Iterator[str]:
    """Where this machine finds a NATS with JetStream, which is `nats:4222` inside of the network."""
    server = DockerContainer(NATS, command="--jetstream", network=network, network_aliases=["nats"], **tagged(owner))
    server.with_exposed_ports(4222).waiting_for(LogMessageWaitStrategy("Server is ready"))
    with server:
        yield f"nats://{server.get_container_host_ip()}:{server.get_exposed_port(4222)}"


def test_a_stream_flows_on_over_a_restart_of_the_broker(
    crew: Crew, uri: str, bus: Broker, network: Network, owner: str
) -> None:
    crew.start("node1", module="messages")
    asyncio.run(_with_stream(uri, crew, network, owner, bus))


async def _with_stream(uri: str, crew: Crew, network: Network, owner: str, bus: Broker) -> None:
    outside = await nats.connect(uri)
    js = outside.jetstream()
    await js.add_stream(name="WORK", subjects=["stream.agents.>"])
    settings = {**crew.settings, "ROOKERY_NATS_URL": "nats://nats:4222", "ROOKERY_NATS_STREAM": "WORK"}
    how = {"entrypoint": ["python", "-m", "rookery.streams.nats"]}
    with Ours(crew.image, "edge", network, owner, settings, **how) as edge:
        await asyncio.to_thread(eventually, lambda: edge.healthy, "the edge is ready")
        restarting = asyncio.create_task(asyncio.to_thread(bus.restart))
        for _ in range(MESSAGES):
            await js.publish("stream.agents.Counter/nats", b'{"type": "add", "n": 1}')
            await asyncio.sleep(0.02)
        await restarting
        deadline = asyncio.get_running_loop().time() + WAIT
        while (count := await _count(outside)) != MESSAGES:
            assert count < MESSAGES, "doubled"
            assert asyncio.get_running_loop().time() < deadline, f"{count} of {MESSAGES}\n{edge.log[-3000:]}"
            await asyncio.sleep(0.2)
        assert await asyncio.to_thread(edge.leave) == 0
    await outside.close()


async def _count(outside: Any) -> int:
    answer = await outside.request("agents.Counter/nats", b'{"type": "add", "n": 0}', timeout=40)
    return int(json.loads(answer.data).get("count", 0))
