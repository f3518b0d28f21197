"""Workers and brokers are killed, frozen, cut off, restarted, replaced while messages flow: 0 lost, 0 doubled."""

from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest
from testcontainers.core.network import Network

from tests.containers.kit import Broker, Crew, Worker, eventually, kafka
from tests.containers.load import PARTITIONS, load

SETTINGS = {"ROOKERY_PARTITIONS": str(PARTITIONS)}


def test_ownership_spreads_over_two_and_then_three_workers(crew: Crew, bus: Broker, tmp_path: Path) -> None:
    crew.start("node1", "node2")
    with load(crew.app_id, bus.address, tmp_path) as traffic:
        traffic.flows()
        eventually(lambda: _shared(traffic.owners(), 2), "two workers own half each")
        crew.start("node3")
        eventually(lambda: _shared(traffic.owners(), 3), "three workers own a third each")
        traffic.flows()
        assert traffic.verdict() == ""


def _shared(owners: dict[int, str], count: int) -> bool:
    names = list(owners.values())
    return len(names) == PARTITIONS and {names.count(f"node{n}") for n in range(1, count + 1)} == {PARTITIONS // count}


def kill(worker: Worker, network: Network, done: Callable[[], None]) -> None:
    """SIGKILL, and a new process under the same name."""
    container = worker.get_wrapped_container()
    container.kill()
    done()
    container.start()


def freeze(worker: Worker, network: Network, done: Callable[[], None]) -> None:
    """Pause, until the group has given its partitions to another."""
    container = worker.get_wrapped_container()
    container.pause()
    done()
    container.unpause()


def cut_off(worker: Worker, network: Network, done: Callable[[], None]) -> None:
    """No network, until the group has given its partitions to another."""
    worker.get_docker_client().client.networks.get(network.id).disconnect(worker.get_container_id())
    done()
    network.connect(worker.get_container_id(), [worker.name])


@pytest.mark.parametrize("strike", [kill, freeze, cut_off])
def test_a_worker_is_struck(
    strike: Callable[..., None], crew: Crew, network: Network, bus: Broker, tmp_path: Path
) -> None:
    crew.start("node1", "node2")
    with load(crew.app_id, bus.address, tmp_path) as traffic:
        traffic.flows()
        eventually(lambda: set(traffic.owners().values()) == {"node1", "node2"}, "both own something")

        def taken_over() -> None:
            eventually(lambda: set(traffic.owners().values()) == {"node2"}, "node2 owns all")
            traffic.flows()

        strike(crew.workers["node1"], network, taken_over)
        crew.ready()
        eventually(lambda: set(traffic.owners().values()) == {"node1", "node2"}, "both own something again")
        traffic.flows()
        assert traffic.verdict() == ""


def test_the_only_broker_restarts(crew: Crew, bus: Broker, tmp_path: Path) -> None:
    crew.start("node1", "node2")
    with load(crew.app_id, bus.address, tmp_path) as traffic:
        traffic.flows()
        bus.restart()
        traffic.flows()
        crew.ready()
        assert traffic.verdict() == ""


@pytest.fixture
def three(network: Network, owner: str) -> Iterator[list[Broker]]:
    """A cluster of three."""
    with kafka(["bus-1", "bus-2", "bus-3"], network, owner) as brokers:
        yield brokers


def test_one_of_three_brokers_is_killed_and_comes_back(
    three: list[Broker], image: str, network: Network, owner: str, app_id: str, tmp_path: Path
) -> None:
    inside, outside = "bus-1:9092,bus-2:9092,bus-3:9092", ",".join(broker.address for broker in three)
    with Crew(image, network, owner, app_id, inside, **SETTINGS) as crew:
        crew.start("node1", "node2", "node3")
        with load(app_id, outside, tmp_path, copies=3) as traffic:
            traffic.flows()
            three[1].get_wrapped_container().kill()
            traffic.flows()
            three[1].get_wrapped_container().start()
            traffic.flows()
            crew.ready()
            assert traffic.verdict() == ""


def test_a_new_image_is_rolled_out_while_messages_flow(
    engine: docker.DockerClient, crew: Crew, bus: Broker, tmp_path: Path
) -> None:
    tag = "rookery:tests-next"
    assert engine.images.get(crew.image).tag(tag)
    crew.start("node1", "node2")
    with load(crew.app_id, bus.address, tmp_path) as traffic:
        for name in ("node1", "node2"):
            traffic.flows()
            crew.retire(name)
            crew.start(name, image=tag)
        traffic.flows()
        assert {worker.image for worker in crew.workers.values()} == {tag}
        assert traffic.verdict() == ""
