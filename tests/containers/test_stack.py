"""The stack of compose.yaml: it ends with the flights verified, drains, and knows everything when it comes back."""

import subprocess

import docker
import pytest
from testcontainers.compose import ComposeContainer, DockerCompose

from tests.containers.kit import ROOT, WAIT, eventually, free_port

PROJECT = "rookery-tests"
AGENTS = ("agent-1", "agent-2")


@pytest.fixture
def stack(engine: docker.DockerClient, monkeypatch: pytest.MonkeyPatch) -> DockerCompose:
    """The stack, with a few of the flights."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True, timeout=WAIT).returncode:
        pytest.skip("there is no docker compose")
    for name, value in {
        "COMPOSE_PROJECT_NAME": PROJECT,
        "FLIGHTS_LIMIT": "20000",
        "KAFKA_PORT": str(free_port()),
        "PROMETHEUS_PORT": str(free_port()),
        "ROOKERY_TAG": "tests",
    }.items():
        monkeypatch.setenv(name, value)
    made = DockerCompose(ROOT, compose_file_name="compose.yaml", build=True, wait=False)
    made.stop()  # what a killed run left
    return made


def _container(stack: DockerCompose, service: str) -> ComposeContainer:
    return stack.get_container(service, include_all=True)


def _verified(stack: DockerCompose) -> str:
    eventually(lambda: _container(stack, "feed").State == "exited", "the feed has ended", 2 * WAIT)
    told = "".join(stack.get_logs("feed"))
    assert _container(stack, "feed").ExitCode == 0, told[-3000:]
    return told


def test_the_flights_are_verified_and_kept_over_a_restart(stack: DockerCompose) -> None:
    with stack:
        assert "0 lost, 0 doubled" in _verified(stack)
        stack.stop(down=False)
        assert [_container(stack, agent).ExitCode for agent in AGENTS] == [0, 0]
        stack.start()
        assert "fed before" in _verified(stack)
