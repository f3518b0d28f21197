"""The worker's event loop: its clock is exact, and only Faust's command line gets it."""

import asyncio
import time
from collections.abc import Iterator

import click
import pytest

from rookery.streams.kafka import loop
from rookery.streams.kafka.app import App

uvloop = pytest.importorskip("uvloop", reason="uvloop has no wheel for this platform")


@pytest.fixture(autouse=True)
def policy() -> Iterator[None]:
    before = asyncio.get_event_loop_policy()
    yield
    asyncio.set_event_loop_policy(before)


def made() -> asyncio.AbstractEventLoop:
    fresh = asyncio.new_event_loop()
    fresh.close()
    return fresh


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

    with asyncio.Runner(loop_factory=loop.Loop) as runner:
        took, until_timeout = runner.run(main())
    assert took >= 0.0123
    assert took % 0.001 > 1e-7  # no whole milliseconds
    assert 0.0315 <= until_timeout < 1


@pytest.mark.parametrize(("chosen", "expected"), [("uvloop", True), ("asyncio", False)])
def test_the_command_line_makes_the_loop_of_the_settings(chosen: str, expected: bool) -> None:
    with click.Context(click.Command("worker")):
        App("app", event_loop=chosen)
    assert isinstance(made(), loop.Loop) is expected


def test_an_application_that_is_built_elsewhere_leaves_loops_alone() -> None:
    App("app")
    assert not isinstance(made(), uvloop.Loop)
