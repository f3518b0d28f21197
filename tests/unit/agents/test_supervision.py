"""Supervision: which policy an error gets, and how long the next attempt waits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rookery import (
    Agent,
    InvalidAgent,
    PauseAgent,
    Policy,
    RejectMessage,
    RetryTurn,
    SkipMessage,
    StepFailed,
    Supervision,
)
from rookery.schemas.errors import AskTimeout, PayloadError


class Declined(RejectMessage):
    """A user's own."""


@pytest.mark.parametrize(
    ("error", "policy"),
    [
        (OSError(), Policy.RETRY),
        (SystemExit(), Policy.RETRY),
        (RetryTurn(), Policy.RETRY),
        (AskTimeout("a/b", 1.0), Policy.RETRY),
        (StepFailed("a/b", "s", "OSError", ""), Policy.RETRY),
        (PayloadError("no"), Policy.DEAD_LETTER),
        (RejectMessage(), Policy.DEAD_LETTER),
        (Declined("no money"), Policy.DEAD_LETTER),
        (SkipMessage(), Policy.SKIP),
        (PauseAgent(), Policy.PAUSE),
    ],
)
def test_without_policies_the_error_says_what_to_do(error: BaseException, policy: Policy) -> None:
    assert Supervision().policy(error, 1) is policy


def test_the_nearest_class_decides() -> None:
    policies = {Exception: Policy.SKIP, OSError: Policy.PAUSE, ConnectionError: Policy.RETRY}
    supervision = Supervision(policies=policies)
    assert supervision.policy(ConnectionResetError(), 1) is Policy.RETRY
    assert supervision.policy(FileNotFoundError(), 1) is Policy.PAUSE
    assert supervision.policy(KeyError(), 1) is Policy.SKIP


def test_what_a_handler_says_beats_a_policy_for_all_exceptions_but_not_one_for_its_class() -> None:
    assert Supervision(policies={Exception: Policy.SKIP}).policy(Declined(), 1) is Policy.DEAD_LETTER
    assert Supervision(policies={Declined: Policy.SKIP}).policy(Declined(), 1) is Policy.SKIP
    assert Supervision(policies={RejectMessage: Policy.PAUSE}).policy(Declined(), 1) is Policy.PAUSE


def test_what_a_step_raised_counts_as_what_the_turn_raised() -> None:
    failed = StepFailed("a/b", "charge", "Declined", "no money")
    failed.__cause__ = Declined("no money")
    assert Supervision().policy(failed, 1) is Policy.DEAD_LETTER
    failed.__cause__ = KeyError("x")
    assert Supervision(policies={KeyError: Policy.SKIP}).policy(failed, 1) is Policy.SKIP


def test_attempts_end() -> None:
    supervision = Supervision(attempts=3, exhausted=Policy.PAUSE)
    assert [supervision.policy(OSError(), n) for n in (1, 2, 3)] == [Policy.RETRY, Policy.RETRY, Policy.PAUSE]
    assert supervision.policy(SkipMessage(), 3) is Policy.SKIP


@given(
    st.floats(0.001, 10),
    st.floats(10, 1_000),
    st.floats(0, 1),
    st.integers(1, 10_000),
    st.floats(0, 1, exclude_max=True),
)
def test_the_back_off_grows_and_is_bounded(
    backoff: float, backoff_max: float, jitter: float, attempts: int, chance: float
) -> None:
    supervision = Supervision(backoff=backoff, backoff_max=backoff_max, jitter=jitter)
    delay = supervision.delay(OSError(), attempts, chance)
    assert 0 <= delay <= backoff_max * (1 + jitter)
    middle = supervision.delay(OSError(), attempts, 0.5)
    assert abs(delay - middle) <= middle * jitter * 1.000001 + 1e-9
    assert supervision.delay(OSError(), attempts + 1, 0.5) >= middle


def test_an_error_may_say_when() -> None:
    assert Supervision().delay(RetryTurn(after=3.5), 4, 0.0) == 3.5
    assert Supervision().delay(RetryTurn(after=-1), 4, 0.0) == 0.0


@pytest.mark.parametrize(
    "wrong",
    [
        Supervision(attempts=0),
        Supervision(jitter=1.5),
        Supervision(backoff=0),
        Supervision(backoff=10, backoff_max=1),
        Supervision(timeout=0),
        Supervision(exhausted=Policy.RETRY),
        Supervision(policies={OSError: "retry"}),  # type: ignore[dict-item]
    ],
)
def test_what_can_not_work_is_found_when_the_class_is_made(wrong: Supervision) -> None:
    with pytest.raises(InvalidAgent, match="supervision"):
        type("Wrong", (Agent,), {"supervision": wrong})


def test_supervision_is_inherited_and_no_state() -> None:
    class Parent(Agent):
        supervision = Supervision(attempts=2)

    class Child(Parent):
        count: int = 0

    assert Child.__rookery_type__.supervision.attempts == 2
    with pytest.raises(InvalidAgent, match="write `supervision"):
        type("Wrong", (Agent,), {"supervision": 3})


@pytest.mark.parametrize(
    ("errors", "policy"),
    [
        ([OSError(), KeyError()], Policy.RETRY),
        ([OSError(), SkipMessage()], Policy.SKIP),
        ([SkipMessage(), OSError(), Declined()], Policy.DEAD_LETTER),
        ([PauseAgent(), PayloadError("no")], Policy.PAUSE),
        ([OSError(), ExceptionGroup("inner", [KeyError(), PayloadError("no")])], Policy.DEAD_LETTER),
    ],
)
def test_the_strictest_of_a_group_counts(errors: list[Exception], policy: Policy) -> None:
    group = ExceptionGroup("outer", errors)
    assert Supervision().policy(group, 1) is policy
    assert Supervision(policies={ExceptionGroup: Policy.SKIP}).policy(group, 1) is Policy.SKIP
    step = StepFailed("a/b", "s", "ExceptionGroup", "")
    step.__cause__ = group
    assert Supervision().policy(step, 1) is policy


def test_policies_are_for_each_error_in_a_group() -> None:
    supervision = Supervision(policies={ConnectionError: Policy.PAUSE, Exception: Policy.SKIP})
    assert supervision.policy(ExceptionGroup("g", [KeyError(), ConnectionResetError()]), 1) is Policy.PAUSE
    assert supervision.policy(ExceptionGroup("g", [KeyError(), Declined()]), 1) is Policy.DEAD_LETTER
    assert supervision.policy(ExceptionGroup("g", [KeyError()]), 1) is Policy.SKIP
    assert Supervision(attempts=2).policy(ExceptionGroup("g", [OSError()]), 2) is Policy.DEAD_LETTER


def test_the_longest_wait_that_a_group_asks_for() -> None:
    group = ExceptionGroup("g", [RetryTurn(after=3), OSError(), ExceptionGroup("h", [RetryTurn(after=7), RetryTurn()])])
    assert Supervision().delay(group, 1, 0.5) == 7
    assert Supervision(backoff=2.0).delay(ExceptionGroup("g", [OSError()]), 1, 0.5) == 2.0
