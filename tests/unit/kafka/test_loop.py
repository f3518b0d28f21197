"""The worker's event loop: its clock is exact, and only Faust's command line gets it, without TLS."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pytest

from rookery.streams.kafka.app import App
from tests.certificates import Authority

uvloop = pytest.importorskip("uvloop", reason="uvloop has no wheel for this platform")


@pytest.fixture(autouse=True)
def policy() -> Iterator[None]:
    before = asyncio.get_event_loop_policy()
    yield
    asyncio.set_event_loop_policy(before)


def of_the_command_line(**settings: Any) -> asyncio.AbstractEventLoop:
    """The loop that Faust would make for this application."""
    with mock.patch.dict(sys.modules, {"faust.cli.faust": ModuleType("faust.cli.faust")}):
        App("app", **settings)
    return asyncio.new_event_loop()


def test_faust_runs_workers_and_commands_on_it(tmp_path: Path) -> None:
    (tmp_path / "looping.py").write_text(
        "import asyncio\n"
        "from rookery import App\n"
        "from rookery.streams.kafka.cli import Command\n"
        "app = App('app')\n"
        "@app.command(base=Command)\n"
        "async def tell(self):\n"
        "    print(type(asyncio.get_running_loop()).__mro__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "faust", "-A", "looping", "tell"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "uvloop.Loop" in done.stdout, done.stdout + done.stderr


def test_the_clock_goes_on_during_a_callback() -> None:
    async def main() -> tuple[float, float]:
        clock = asyncio.get_running_loop().time
        began = clock()
        time.sleep(0.0123)  # noqa: ASYNC251 - that is the point
        took = clock() - began
        with pytest.raises(TimeoutError):
            async with asyncio.timeout_at(clock() + 0.02):
                await asyncio.sleep(10)
        return took, clock() - began

    with asyncio.Runner(loop_factory=of_the_command_line) as runner:
        assert isinstance(runner.get_loop(), uvloop.Loop)
        took, until_timeout = runner.run(main())
    assert took >= 0.0123
    assert took % 0.001 > 1e-7  # no whole milliseconds
    assert 0.0315 <= until_timeout < 1


def test_tls_and_who_asks_for_it_get_that_of_asyncio(tmp_path: Path) -> None:
    ca_file = Authority(tmp_path).ca_file
    for settings in (
        {"event_loop": "asyncio"},
        {"broker_tls": True, "broker_ca_file": ca_file},
        {"redis_url": "rediss://127.0.0.1", "redis_ca_file": ca_file},
    ):
        loop = of_the_command_line(**settings)
        loop.close()
        assert not isinstance(loop, uvloop.Loop), settings


def test_an_application_that_is_built_elsewhere_leaves_loops_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "faust.cli.faust", raising=False)
    App("app")
    loop = asyncio.new_event_loop()
    loop.close()
    assert not isinstance(loop, uvloop.Loop)
