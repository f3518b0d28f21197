"""A stuck loop and an endless stop end the process; a frozen process is neither."""

import asyncio
import threading

import pytest

from rookery.streams.kafka import watchdog
from rookery.streams.kafka.watchdog import EXIT_OVERDUE, EXIT_STUCK, Vigil, Watchdog


def test_time_is_what_the_watcher_itself_has_seen() -> None:
    vigil = Vigil(0.5)
    assert [vigil.look() for _ in range(4)] == [0.0, 0.5, 1.0, 1.5]
    vigil.seen()
    assert vigil.look() == 0.0
    # A freeze of hours lies between two looks and counts as one of them.
    assert vigil.look() == 0.5


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "LOOK", 0.01)


def watched(bound: float, action: str) -> tuple[int, str]:
    """(exit code, name of the thread that ended the process) of a loop that does what `action` says."""
    left: list[tuple[int, str]] = []
    ended = threading.Event()

    def leave(code: int) -> None:
        left.append((code, threading.current_thread().name))
        ended.set()

    async def main() -> None:
        dog = Watchdog(bound, leave)
        dog.start()
        if action == "block":
            ended.wait(20)
        elif action == "stop":
            dog.stop_within(60.0)
            dog.stop_within(0.1)
            dog.stop_within(60.0)
            await asyncio.to_thread(ended.wait, 20)
        else:
            assert dog.take_late_max() < 20
        dog.close()

    asyncio.run(main())
    return left[0] if left else (0, "")


@pytest.mark.usefixtures("fast")
def test_a_stuck_loop_ends_the_process_with_its_stack_in_the_log(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert watched(0.3, "block") == (EXIT_STUCK, "rookery-watchdog")
    assert "the event loop was stuck" in caplog.text


@pytest.mark.usefixtures("fast")
def test_a_stop_that_takes_too_long_ends_the_process_and_a_second_word_only_shortens_it() -> None:
    assert watched(60.0, "stop")[0] == EXIT_OVERDUE


@pytest.mark.usefixtures("fast")
def test_a_loop_that_lives_is_left_alone() -> None:
    assert watched(30.0, "live") == (0, "")
