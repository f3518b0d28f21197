"""What a user writes: agents, their handlers and state; and the manager that reaches them. Imports schemas only."""

from rookery.agents.agent import Agent
from rookery.agents.handlers import handler
from rookery.agents.manager import AgentHandle, AgentManager, StateView

__all__ = ["Agent", "AgentHandle", "AgentManager", "StateView", "handler"]
