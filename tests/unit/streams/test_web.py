"""The pages, asked over HTTP from the web server that Faust makes."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any, cast

import faust
import pytest
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client.parser import text_string_to_metric_families

from rookery.ops.hot import Load
from rookery.ops.metrics import Metrics
from rookery.ops.settings import Settings
from rookery.schemas.errors import ConfigurationError
from rookery.streams.engine.engine import Engine
from rookery.streams.kafka.app import App, presets
from rookery.streams.kafka.services import refuse_open_web
from rookery.streams.web import SETTINGS, add_pages, guard

TOKEN = "a-token-of-some-length"
RUNNING, RECOVERING = {"phase": "running"}, {"phase": "recovering"}


class FakeEngine:
    """What the pages read of an engine."""

    def __init__(self) -> None:
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.numbers: dict[str, Any] = {"partitions": {}}

    def statistics(self) -> dict[str, Any]:
        return self.numbers


async def get(path: str, engine: FakeEngine | None = None, token: str = "", header: str = "") -> tuple[int, str, str]:
    app = faust.App("pages", broker="kafka://127.0.0.1:1", **SETTINGS, **(guard(token) if token else {}))
    metrics = Metrics(10)
    metrics.observer(cast("Any", SimpleNamespace(address="Plane/N1", kind=None)), 1, 0.2, False)
    load = Load(lambda address: 7)
    load.take(metrics.sampled(), 0.0)
    add_pages(app, metrics, lambda: cast("Engine | None", engine), load=load)
    headers = {"Authorization": header} if header else {}
    async with TestClient(TestServer(await app.web.wsgi())) as client, client.get(path, headers=headers) as response:
        return response.status, response.headers["Content-Type"], await response.text()


@pytest.mark.asyncio
async def test_metrics_are_served_in_prometheus_text_format() -> None:
    status, content_type, body = await get("/metrics")
    assert (status, content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert "agent_messages_received" in {family.name for family in text_string_to_metric_families(body)}


@pytest.mark.asyncio
async def test_the_hottest_agents_and_partitions_are_shown() -> None:
    status, _, body = await get("/load")
    found = json.loads(body)
    assert status == 200
    assert found["agents"] == [{"name": "Plane/N1", "turns_share": 1.0, "seconds_share": 1.0, "partition": 7}]
    assert found["partitions"][0]["name"] == "7"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("partitions", "rebalances", "status", "body"),
    [
        ({}, 0, 503, "no partitions assigned yet\n"),
        ({}, 1, 200, "ok\n"),  # more workers than partitions
        ({0: RUNNING, 1: RUNNING}, 1, 200, "ok\n"),
        ({0: RUNNING, 1: RECOVERING}, 1, 503, "not recovered yet: 1 of 2 partitions\n"),
        ({0: {"phase": "confirming"}}, 1, 503, "not recovered yet: 1 of 1 partitions\n"),
    ],
)
async def test_ready_means_assigned_and_all_recovered(
    partitions: dict[int, Any], rebalances: int, status: int, body: str
) -> None:
    engine = FakeEngine()
    engine.numbers = {"partitions": partitions, "rebalances": rebalances}
    assert (await get("/readyz", engine))[::2] == (status, body)
    assert (await get("/livez", engine))[::2] == (200, "ok\n")


@pytest.mark.asyncio
async def test_before_the_engine_is_made_the_worker_lives_and_is_not_ready() -> None:
    assert (await get("/livez"))[0] == 200
    assert (await get("/readyz"))[::2] == (503, "not started\n")


@pytest.mark.asyncio
async def test_a_failed_engine_is_neither_alive_nor_ready() -> None:
    engine = FakeEngine()
    engine.numbers = {"partitions": {0: RUNNING}}
    engine.failed.set_exception(RuntimeError("the secret of the cause"))
    engine.failed.exception()
    for path in ("/livez", "/readyz"):
        assert (await get(path, engine))[::2] == (503, "the engine failed: see the log\n")


@pytest.mark.asyncio
@pytest.mark.parametrize("path", ["/table/", "/router/", "/graph/", "/performance/", "/assignment/"])
async def test_fausts_own_pages_are_off(path: str) -> None:
    assert (await get(path))[0] == 404


@pytest.mark.asyncio
@pytest.mark.parametrize("path", ["/metrics", "/", "/nowhere", "/livez/", "/metrics?x=/livez"])
async def test_with_a_token_all_pages_are_closed_but_health(path: str) -> None:
    assert (await get(path, token=TOKEN))[::2] == (401, "the web_token is missing or wrong\n")


@pytest.mark.asyncio
@pytest.mark.parametrize("header", [TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"bearer {TOKEN}", "Bearer \u00e9"])
async def test_a_token_is_shown_exactly(header: str) -> None:
    assert (await get("/metrics", token=TOKEN, header=header))[0] == 401


@pytest.mark.asyncio
async def test_with_the_token_they_are_open_and_health_needs_none() -> None:
    status, _, body = await get("/metrics", token=TOKEN, header=f"Bearer {TOKEN}")
    assert status == 200
    assert "agent_messages_received" in body
    assert (await get("/livez", token=TOKEN))[::2] == (200, "ok\n")
    assert (await get("/readyz", token=TOKEN))[::2] == (503, "not started\n")


def test_an_application_hands_its_token_to_the_web_server() -> None:
    guarded = presets(Settings.load(app_id="pages", web_token=TOKEN))
    assert len(guarded["web_application_options"]["middlewares"]) == 1
    assert TOKEN not in repr(guarded)
    assert "web_application_options" not in presets(Settings.load(app_id="pages"))


@pytest.mark.asyncio
async def test_fausts_command_line_can_not_open_the_pages_without_a_token() -> None:
    app = App("pages")
    app.conf.web_bind = "0.0.0.0"  # noqa: S104 - as `worker --web-bind` does
    with pytest.raises(ConfigurationError, match=r"--web-bind 0\.0\.0\.0 can be reached from outside"):
        await app.engine_service.on_start()
    for guarded in ({"web_token": TOKEN}, {"allow_open_web": True}):
        refuse_open_web(Settings.load(app_id="pages", **guarded), "0.0.0.0")  # noqa: S104
