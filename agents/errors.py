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
