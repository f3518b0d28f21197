"""The engine, our image, one network, one set of servers for all tests here; a clear skip where there is no engine."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import docker
import psutil
import pytest
from docker.errors import DockerException
from testcontainers.community.redis import RedisContainer
from testcontainers.core.image import DockerImage
from testcontainers.core.network import Network

from tests.containers.kit import LABEL, REDIS, ROOT, Broker, Crew, kafka, remove_leftovers, tagged

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder needs an engine."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.containers)


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    """A client of the engine, after whatever an earlier run could not remove is removed."""
    try:
        client = docker.from_env()
        client.ping()
    except DockerException as error:
        pytest.skip(f"no Docker engine answers: {error}")
    for name in remove_leftovers(client, alive=lambda owner: psutil.pid_exists(int(owner))):
        print(f"removed {name}, left over by a run that was killed")
    yield client
    client.close()


@pytest.fixture(scope="session")
def owner() -> str:
    """Whose the containers are."""
    return str(os.getpid())


@pytest.fixture(scope="session")
def image(engine: docker.DockerClient) -> str:
    """Our image, built from this checkout."""
    built = DockerImage(path=ROOT, tag="rookery:tests", clean_up=False, target="rookery", rm=True).build()
    assert built.tag is not None
    return built.tag


@pytest.fixture(scope="session")
def network(engine: docker.DockerClient, owner: str) -> Iterator[Network]:
    """The network of all containers."""
    with Network(docker_network_kw={"labels": {LABEL: owner}}) as made:
        yield made


@pytest.fixture(scope="session")
def bus(network: Network, owner: str) -> Iterator[Broker]:
    """One broker, `bus:9092` inside of the network."""
    with kafka(["bus"], network, owner) as (broker,):
        yield broker


@pytest.fixture(scope="session")
def redis(network: Network, owner: str) -> Iterator[RedisContainer]:
    """A Redis, `redis:6379` inside of the network."""
    with RedisContainer(REDIS, network=network, network_aliases=["redis"], **tagged(owner)) as made:
        yield made


@pytest.fixture
def app_id() -> str:
    """A fresh application."""
    return f"test-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def crew(image: str, network: Network, owner: str, bus: Broker, app_id: str) -> Iterator[Crew]:
    """Workers on the one broker; a test starts them."""
    with Crew(image, network, owner, app_id, "bus:9092", ROOKERY_PARTITIONS="6") as made:
        yield made
