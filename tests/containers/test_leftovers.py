"""A run that was killed leaves containers behind; the next one removes them, and leaves those of live runs alone."""

import docker

from tests.containers.kit import LABEL, remove_leftovers


def test_what_a_killed_run_left_is_removed(engine: docker.DockerClient, image: str) -> None:
    names = {"killed": {LABEL: "killed"}, "alive": {LABEL: "alive"}, "foreign": {}}
    made = {name: engine.containers.create(image, labels=labels) for name, labels in names.items()}
    network = engine.networks.create("rookery-left-over", labels={LABEL: "killed"})
    try:
        gone = remove_leftovers(engine, alive=lambda owner: owner != "killed")
        assert set(gone) == {made["killed"].name, network.name}
    finally:
        for name in ("alive", "foreign"):
            made[name].remove()
