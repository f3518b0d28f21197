"""The compiled queues against a deque, which is what their Python twins are."""

from __future__ import annotations

import sys
from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rookery.schemas import native

pytestmark = pytest.mark.compiled
_mailboxes: Any = native.load("rookery.streams.core._mailboxes")

STEPS = st.lists(
    st.sampled_from(["append", "append", "appendleft", "popleft", "popleft", "clear"])
    | st.lists(st.integers(), max_size=9),
    max_size=200,
)


def queue(name: str) -> Any:
    """A fresh queue: of anything, or of one lane of a mailbox."""
    return _mailboxes.Waiting() if name == "Waiting" else _mailboxes.Mailbox("A/1", 0).lanes[1]


@pytest.mark.parametrize("name", ["Waiting", "Lane"])
@given(STEPS)
def test_a_queue_does_what_a_deque_does(name: str, steps: list[str | list[int]]) -> None:
    ours, theirs = queue(name), deque[object]()
    for number, step in enumerate(steps):
        if isinstance(step, list):
            ours.extend(step)
            theirs.extend(step)
        elif step == "popleft" and not theirs:
            with pytest.raises(IndexError):
                ours.popleft()
        elif step in ("popleft", "clear"):
            assert getattr(ours, step)() == getattr(theirs, step)()
        else:
            getattr(ours, step)(number)
            getattr(theirs, step)(number)
        assert list(ours) == list(theirs)
        assert (len(ours), bool(ours)) == (len(theirs), bool(theirs))
        assert [ours[i] for i in range(-len(theirs), len(theirs))] == [
            theirs[i] for i in range(-len(theirs), len(theirs))
        ]
        with pytest.raises(IndexError):
            ours[len(theirs)]


@pytest.mark.parametrize("name", ["Waiting", "Lane"])
def test_a_queue_keeps_and_lets_go_what_is_in_it(name: str) -> None:
    one, ours = object(), queue(name)
    before = sys.getrefcount(one)
    for _ in range(10_000):
        ours.append(one)
    for _ in range(6_000):
        ours.popleft()
        ours.appendleft(one)
        ours.popleft()
    assert sys.getrefcount(one) == before + 4_000
    del ours
    assert sys.getrefcount(one) == before
