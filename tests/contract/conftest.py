"""Runs every scenario in every kind of world: an async test that asks for `world` gets one of each driver."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from tests.contract.worlds import Driver, KafkaDriver, MemoryDriver
from tests.programs import Program

ROOT = Path(__file__).parents[2]
# A worker that has not recovered its partitions by then does not start; seconds.
START_SECONDS_MAX = 60.0


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def world(request: pytest.FixtureRequest) -> Any:
    """The driver of a world; `pytest_pyfunc_call` opens the world and hands that to the test."""
    return MemoryDriver() if request.param == "memory" else request.getfixturevalue("kafka_driver")


@pytest.fixture(scope="session")
def kafka_driver(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaDriver]:
    """A worker process of the contract's application; its planned stop is clean."""
    driver = KafkaDriver(f"contract-{uuid.uuid4().hex[:8]}", broker, tmp_path_factory.mktemp("contract") / "worker.log")
    environment = {**os.environ, "ROOKERY_BROKER": broker, "ROOKERY_APP_ID": driver.app_id}
    driver.log.touch()
    words = ("faust", "-A", "tests.contract.app", "worker", "-l", "info")
    process = Program(*words, cwd=ROOT, env=environment, log=driver.log)
    try:
        deadline = time.monotonic() + START_SECONDS_MAX
        while driver.log.read_text().count("recovered partition") < 4:
            assert process.poll() is None, driver.log.read_text()
            assert time.monotonic() < deadline, driver.log.read_text()
            time.sleep(0.1)
        yield driver
        process.terminate()
        assert process.wait(30) == 0, driver.log.read_text()
    finally:
        process.kill()
        process.wait()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a scenario in a world of its own."""
    if "world" not in pyfuncitem.funcargs or not asyncio.iscoroutinefunction(pyfuncitem.obj):
        return None
    driver = cast("Driver", pyfuncitem.funcargs["world"])

    async def scenario() -> None:
        async with driver.world() as opened:
            await pyfuncitem.obj(world=opened)

    driver.run(scenario)
    return True
