"""Our image: what it says of bad settings, that it needs one volume and no rights, how it stops, what is not in it."""

import docker
from testcontainers.core.container import DockerContainer

from tests.containers.kit import ROOT, Broker, Crew, tagged


def test_bad_settings_are_all_told_at_once_with_exit_code_2(image: str, owner: str) -> None:
    bad = {"ROOKERY_PARTITIONS": "0", "ROOKERY_WEB_PORT": "99999", "BUS_ADDRESS": "kafka://host:port"}
    container = DockerContainer(image, env={**bad, "ROOKERY_APP_ID": "app"}, **tagged(owner))
    container.with_volume_mapping(ROOT / "tests", "/app/tests").with_command("-A tests.containers.messages worker")
    with container:
        assert container.get_wrapped_container().wait(timeout=90)["StatusCode"] == 2
        told = b"".join(container.get_logs()).decode()
    assert all(name in told for name in bad), told
    assert "Traceback" not in told


def test_nothing_of_the_build_is_left_and_nobody_is_root(engine: docker.DockerClient, image: str, owner: str) -> None:
    with DockerContainer(image, **tagged(owner)).with_kwargs(entrypoint=["sleep", "600"], **tagged(owner)) as container:
        assert container.exec(["id", "-u"]).output.strip() == b"10001"
        for name in ("uv", "gcc", "pip3.11"):
            found = container.exec(["sh", "-c", f"find /opt/rookery /app /data /build -name {name}"]).output
            assert b"/opt" not in found, found
        for folder in ("/build", "/root/.cache/pip"):
            assert container.exec(["test", "-e", folder]).exit_code == 1
        writable = container.exec(["find", "/opt/rookery", "/app", "-writable"]).output.decode().split()
        assert writable == ["/app"]
    history = "".join(layer["CreatedBy"] for layer in engine.images.get(image).history())
    assert "uv sync" not in history


def test_the_hot_path_is_compiled(image: str, owner: str) -> None:
    ask = "from rookery.schemas import native; print(native.in_use())"
    with DockerContainer(image, **tagged(owner)).with_kwargs(entrypoint=["sleep", "600"], **tagged(owner)) as container:
        assert container.exec(["python", "-c", ask]).output.strip() == b"True"


def test_a_worker_drains_on_sigterm_as_process_1_on_a_read_only_root(crew: Crew, bus: Broker) -> None:
    crew.start("node1")
    worker = crew.workers["node1"]
    assert worker.exec(["sh", "-c", "cat /proc/1/comm"]).output.strip() == b"faust"
    assert worker.exec(["touch", "/app/file"]).exit_code == 1
    assert worker.exec(["touch", "/data/file"]).exit_code == 0
    crew.retire("node1")
