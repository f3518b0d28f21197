"""Supervision: what happens to a message whose turn failed, declared by agent class.

    class Billing(Agent):
        supervision = Supervision(attempts=8, backoff=1.0, timeout=60.0, policies={CardDeclined: Policy.SKIP})

The nearest class in `policies` decides; without one, an error that says what to do with it (`RetryTurn`, `SkipMessage`,
`RejectMessage`, `PauseAgent`) or whether trying again can help (`retriable`), and for all other errors: try again.
Of an ExceptionGroup each error in it is asked, and the strictest answer counts: pause, then dead letter, then skip,
then try again; a policy for ExceptionGroup itself goes before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar

from rookery.agents.errors import StepFailed
from rookery.schemas.errors import InvalidAgent, RookeryError


class Policy(Enum):
    """What to do with a message whose turn failed."""

    RETRY = "retry"  # after a back-off, while the agent's other messages wait in order
    SKIP = "skip"  # counted and logged, nothing else
    DEAD_LETTER = "dead_letter"
    PAUSE = "pause"  # the agent takes no messages until somebody resumes it, beginning with this one


_STRICTER = (Policy.RETRY, Policy.SKIP, Policy.DEAD_LETTER, Policy.PAUSE)

# The longest wait for another attempt, seconds: a year.
DELAY_MAX = 366 * 86_400.0


class TurnError(RookeryError):
    """Base of the errors with which a handler says what is to be done with its message; meant for subclassing."""

    reason = "turn-error"
    policy: ClassVar[Policy] = Policy.DEAD_LETTER


class RetryTurn(TurnError):
    """Try the message again, after `after` seconds or the usual back-off; counts as an attempt."""

    reason = "retry"
    retriable = True
    policy = Policy.RETRY

    def __init__(self, why: str = "", *, after: float | None = None) -> None:
        """`after` is seconds, a year at most. Raises ValueError."""
        seconds: Any = after  # whatever it is: this must not surprise whoever handles the error
        if after is not None and not (isinstance(seconds, int | float) and seconds <= DELAY_MAX):
            raise ValueError(f"RetryTurn(after={after!r}): write seconds, {DELAY_MAX:g} at most")
        self.after = after
        super().__init__(why or "the handler asked to be tried again")


class SkipMessage(TurnError):
    """Leave the message alone: no effects, no dead letter."""

    reason = "skipped"
    policy = Policy.SKIP

    def __init__(self, why: str = "") -> None:
        super().__init__(why or "the handler skipped the message")


class RejectMessage(TurnError):
    """The message can't be handled, now or later: a dead letter at once."""

    reason = "rejected"
    policy = Policy.DEAD_LETTER

    def __init__(self, why: str = "") -> None:
        super().__init__(why or "the handler rejected the message")


class PauseAgent(TurnError):
    """Pause the agent until somebody resumes it; it begins with this message then."""

    reason = "paused"
    policy = Policy.PAUSE

    def __init__(self, why: str = "") -> None:
        super().__init__(why or "the handler paused its agent")


class HandlerTimeout(RookeryError, TimeoutError):
    """A handler ran longer than its class allows."""

    reason = "handler-timeout"
    retriable = True

    def __init__(self, agent: str, timeout: float) -> None:
        self.agent, self.timeout = agent, timeout
        super().__init__(f"a handler of {agent} ran longer than {timeout:g} s: do less, or raise its timeout")


@dataclass(frozen=True)
class Supervision:
    """How failed turns of an agent class are treated; all durations are seconds.

    A message gets `attempts` turns at most, then `exhausted` decides. Between them lies a back-off that doubles from
    `backoff` to `backoff_max`, each time by up to the share `jitter` longer or shorter. `timeout` bounds a handler.
    """

    attempts: int = 5
    backoff: float = 0.2
    backoff_max: float = 30.0
    jitter: float = 0.2
    timeout: float | None = None
    policies: Mapping[type[Any], Policy] = field(default_factory=dict)
    exhausted: Policy = Policy.DEAD_LETTER

    def check(self, agent_type: str) -> None:
        """Raise InvalidAgent if this can't work."""
        if self.attempts < 1 or not 0 <= self.jitter <= 1 or self.exhausted is Policy.RETRY:
            raise InvalidAgent(agent_type, "supervision needs attempts >= 1, jitter from 0 to 1, exhausted not RETRY")
        if not 0 < self.backoff <= self.backoff_max or (self.timeout is not None and self.timeout <= 0):
            raise InvalidAgent(agent_type, "supervision needs 0 < backoff <= backoff_max and a timeout above 0")
        for error, policy in self.policies.items():
            if type(policy) is not Policy:
                raise InvalidAgent(agent_type, f"supervision maps exception classes to policies, not {error!r}")

    def policy(self, error: BaseException, attempts: int) -> Policy:
        """What to do after `attempts` turns of a message have failed, the last one with `error`."""
        policy = self._of(error)
        return self.exhausted if policy is Policy.RETRY and attempts >= self.attempts else policy

    def _of(self, error: BaseException) -> Policy:
        cause = error.__cause__ if isinstance(error, StepFailed) else None
        for seen in (error, error.__cause__):  # what a step raised stands behind the error that says so
            if (policy := self._declared(seen)) is not None:
                return policy
        for seen in (error, cause):
            if isinstance(seen, BaseExceptionGroup):
                return max((self._of(inner) for inner in seen.exceptions), key=_STRICTER.index)
        if any(isinstance(seen, RookeryError) and not seen.retriable for seen in (error, cause)):
            return Policy.DEAD_LETTER
        return Policy.RETRY

    def _declared(self, error: BaseException | None) -> Policy | None:
        for cls in type(error).__mro__:
            if cls is Exception and isinstance(error, BaseExceptionGroup):
                return None  # a policy for all exceptions is one for each in it
            if cls in self.policies:
                return self.policies[cls]
            if cls is TurnError and isinstance(error, TurnError):  # more precise than a policy for all exceptions
                return error.policy
        return None

    def delay(self, error: BaseException, attempts: int, chance: float) -> float:
        """Seconds until the next attempt after `attempts` failed ones; `chance` from 0 to 1 places it in the jitter."""
        wishes = [getattr(seen, "after", None) for seen in _each(error) if isinstance(seen, RetryTurn)]
        if told := [after for after in wishes if isinstance(after, int | float)]:
            return min(max(0.0, *told), DELAY_MAX)
        base = min(self.backoff_max, self.backoff * 2.0 ** min(attempts - 1, 60))
        return min(base * (1 + self.jitter * (2 * chance - 1)), DELAY_MAX)


def _each(error: BaseException) -> Iterator[BaseException]:
    """The error, or all that are in a group."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _each(inner)
    else:
        yield error
