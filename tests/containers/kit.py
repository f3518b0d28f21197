"""Servers and workers in containers, by testcontainers' public interface; none outlives its test run."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

import docker
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

ROOT = Path(__file__).parents[2]
LABEL = "rookery.tests"
"""On everything that is started here, with the id of the process: what it names is not left over while that lives."""
KAFKA, CP_KAFKA, REDIS = "apache/kafka:4.1.1", "confluentinc/cp-kafka:8.1.1", "redis:7-bookworm"
NATS = "nats:2.11-alpine"
WAIT = 150.0
"""Seconds that anything may take on a loaded machine."""
SESSION = 6.0
"""Seconds until the group misses a worker."""


def free_port() -> int:
    """A port of this machine that stays the same when a container is restarted, unlike one that Docker picks."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def eventually(holds: Callable[[], Any], what: str, timeout: float = WAIT) -> Any:
    """Wait until it holds, and return what it gave."""
    deadline = time.monotonic() + timeout
    while not (found := holds()):
        assert time.monotonic() < deadline, f"not within {timeout:.0f} s: {what}"
        time.sleep(0.2)
    return found


def tagged(owner: str) -> dict[str, Any]:
    """Arguments that mark a container as one of this run."""
    return {"labels": {LABEL: owner}}


def remove_leftovers(client: docker.DockerClient, alive: Callable[[str], bool]) -> list[str]:
    """Remove containers and networks of runs that were killed; returns their names."""
    gone = []
    for container in client.containers.list(all=True, filters={"label": LABEL}):
        if not alive(container.labels[LABEL]):
            gone.append(str(container.name))
            container.remove(force=True, v=True)
    for network in client.networks.list(filters={"label": LABEL}):
        if not alive(network.attrs["Labels"][LABEL]):
            gone.append(str(network.name))
            network.remove()
    return gone


class Broker(DockerContainer):
    """An `apache/kafka` node, broker and controller in one, of a cluster whose nodes have these names."""

    def __init__(self, name: str, names: Sequence[str], network: Network, owner: str) -> None:
        super().__init__(KAFKA, network=network, network_aliases=[name], mem_limit="1g", **tagged(owner))
        self.port = free_port()
        copies = str(min(3, len(names)))
        self.with_bind_ports(29092, self.port)
        self.with_envs(
            CLUSTER_ID="Um9va2VyeVRlc3RzMDAwMQ",
            KAFKA_NODE_ID=str(names.index(name) + 1),
            KAFKA_PROCESS_ROLES="broker,controller",
            KAFKA_LISTENERS="PLAINTEXT://:9092,HOST://:29092,CONTROLLER://:9093",
            KAFKA_ADVERTISED_LISTENERS=f"PLAINTEXT://{name}:9092,HOST://{self.host}:{self.port}",
            KAFKA_LISTENER_SECURITY_PROTOCOL_MAP="PLAINTEXT:PLAINTEXT,HOST:PLAINTEXT,CONTROLLER:PLAINTEXT",
            KAFKA_INTER_BROKER_LISTENER_NAME="PLAINTEXT",
            KAFKA_CONTROLLER_LISTENER_NAMES="CONTROLLER",
            KAFKA_CONTROLLER_QUORUM_VOTERS=",".join(f"{n}@{node}:9093" for n, node in enumerate(names, 1)),
            KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR=copies,
            KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS="4",
            KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR=copies,
            KAFKA_TRANSACTION_STATE_LOG_MIN_ISR="2" if len(names) >= 3 else "1",
            KAFKA_TRANSACTION_STATE_LOG_NUM_PARTITIONS="4",
            KAFKA_AUTO_CREATE_TOPICS_ENABLE="false",
            KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS="0",
            KAFKA_HEAP_OPTS="-Xms256m -Xmx512m",
        )

    @property
    def host(self) -> str:
        """Where this machine reaches the ports of containers."""
        return self.get_docker_client().host().replace("localhost", "127.0.0.1")

    @property
    def address(self) -> str:
        """For clients outside of the network."""
        return f"{self.host}:{self.port}"

    def restart(self) -> None:
        """Stop in order and start again."""
        self.get_wrapped_container().restart(timeout=30)


@contextmanager
def kafka(names: Sequence[str], network: Network, owner: str) -> Iterator[list[Broker]]:
    """A cluster of nodes with these names, ready for clients."""
    with ExitStack() as stack:
        brokers = [stack.enter_context(Broker(name, names, network, owner)) for name in names]
        for broker in brokers:
            ready = LogMessageWaitStrategy(r".*Kafka Server started.*").with_startup_timeout(int(WAIT))
            ready.wait_until_ready(broker)
        yield brokers


class Ours(DockerContainer):
    """A container of our image; `how` says what it runs, as Docker's arguments."""

    def __init__(
        self, image: str, name: str, network: Network, owner: str, settings: Mapping[str, str], **how: Any
    ) -> None:
        super().__init__(
            image, network=network, network_aliases=[name], read_only=True, mem_limit="512m", **how, **tagged(owner)
        )
        self.name = name
        self.with_envs(
            ROOKERY_SESSION_TIMEOUT=str(SESSION),
            ROOKERY_HEARTBEAT_INTERVAL="0.5",
            PYTHONFAULTHANDLER="1",
            **settings,
        )

    @property
    def log(self) -> str:
        """What it has printed."""
        return b"".join(self.get_logs()).decode(errors="replace")

    @property
    def healthy(self) -> bool:
        """What the image's health check says."""
        self.reload()
        state: dict[str, Any] = self.get_wrapped_container().attrs["State"]
        return bool(state["Status"] == "running" and state["Health"]["Status"] == "healthy")

    def leave(self) -> int:
        """Stop by SIGTERM, and return the exit code."""
        container = self.get_wrapped_container()
        container.stop(timeout=60)
        return int(container.wait()["StatusCode"])


class Worker(Ours):
    """A worker of one of the applications beside this file."""

    def __init__(
        self, image: str, module: str, name: str, network: Network, owner: str, settings: Mapping[str, str]
    ) -> None:
        command = f"-A tests.containers.{module} worker -l info"
        super().__init__(image, name, network, owner, {"AGENT_ID": name, **settings}, command=command)
        self.with_volume_mapping(ROOT / "tests", "/app/tests")


class Crew:
    """The workers of one application."""

    def __init__(self, image: str, network: Network, owner: str, app_id: str, bus: str, **settings: str) -> None:
        self.image, self.app_id = image, app_id
        self._network, self._owner = network, owner
        self.settings = {"ROOKERY_APP_ID": app_id, "BUS_ADDRESS": f"kafka://{bus}", **settings}
        self._stack = ExitStack()
        self.workers: dict[str, Worker] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def start(self, *names: str, module: str = "clerks", image: str = "") -> None:
        """Start workers and wait until all that run are ready."""
        for name in names:
            made = Worker(image or self.image, module, name, self._network, self._owner, self.settings)
            self.workers[name] = self._stack.enter_context(made)
        self.ready()

    def ready(self) -> None:
        """Wait until every worker is ready."""
        for worker in self.workers.values():
            try:
                eventually(partial(getattr, worker, "healthy"), f"{worker.name} is ready")
            except AssertionError as error:
                raise AssertionError(f"{error}\n{worker.log[-3000:]}") from None

    def retire(self, name: str) -> None:
        """Stop a worker in order; it must end well."""
        worker = self.workers.pop(name)
        log_of = worker.log
        assert worker.leave() == 0, log_of[-3000:]
