"""Errors that only code inside agents, or code that spawns them, can meet; the others are in rookery.schemas.errors."""

from __future__ import annotations

from rookery.schemas.errors import RookeryError


class OutsideTurn(RookeryError):
    """An agent was used while it handles no message: only a turn has a sender, and only a turn's sends are durable."""

    reason = "outside-turn"

    def __init__(self, agent: str, what: str) -> None:
        self.agent, self.what = agent, what
        super().__init__(
            f"{what} of agent {agent} outside a turn: call it in a handler or hook, before that returns, "
            "not in a task that outlives it"
        )


class SpawnRefused(RookeryError, TypeError):
    """The arguments of spawn_agent don't fit the on_spawn of the agent class; nothing was sent."""

    reason = "spawn-refused"

    def __init__(self, agent_type: str, why: str) -> None:
        self.agent_type, self.why = agent_type, why
        super().__init__(f"{agent_type} can't be spawned like this: {why}; see {agent_type}.on_spawn")


class StepFailed(RookeryError):
    """A step of a turn failed for good; `error` is the class of what it raised, which also is the `__cause__` the first
    time. Recorded until the whole turn is tried again, which runs the step again."""

    reason = "step-failed"
    retriable = True

    def __init__(self, agent: str, step: str, error: str, text: str) -> None:
        self.agent, self.step, self.error, self.text = agent, step, error, text
        super().__init__(f"step {step!r} of {agent} failed: {error}: {text}")


class StepMismatch(RookeryError):
    """A turn that runs again took another path than what the journal recorded of it."""

    reason = "step-mismatch"

    def __init__(self, agent: str, index: int, recorded: str, found: str) -> None:
        self.agent, self.index, self.recorded, self.found = agent, index, recorded, found
        super().__init__(
            f"step {index} of a turn of {agent} was {recorded} before, and is {found} now, or has other arguments: a "
            "handler must take the same steps whenever it sees the same message, state and results; bring the old code "
            "back until the turn is over, or let the message go to the dead letters"
        )


class AskCycle(RookeryError):
    """An agent asks one that waits for its own answer, directly or through others; `chain` are those who wait."""

    reason = "ask-cycle"

    def __init__(self, target: str, chain: list[str]) -> None:
        self.target, self.chain = target, chain
        super().__init__(
            f"asking {target} would wait for ever or too deeply, since these wait already: {' -> '.join(chain)}; "
            "send a message instead of asking, and handle the answer as a message"
        )
