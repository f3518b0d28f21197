"""How an AgentManager finds the running application: the connection, and where the current one is kept."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

from rookery.agents.agent import Agent
from rookery.agents.types import AgentType
from rookery.schemas.envelope import Priority
from rookery.schemas.errors import NotBound


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer to an ask; `error` is the code of an error reply, None if the agent handled the message."""

    type: str
    content_type: str
    payload: bytes
    error: str | None = None


class Connection(Protocol):
    """What a running application, client or test kit does for managers and handles."""

    async def tell(  # noqa: PLR0913 - what an envelope says
        self,
        target: str,
        message_type: str,
        content_type: str,
        payload: bytes,
        *,
        priority: Priority,
        sender: str | None = None,
        deadline_ns: int = 0,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Send; returns when the broker has acknowledged. `deadline_ns` is nanoseconds since the epoch, 0 for none."""

    async def ask(  # noqa: PLR0913
        self,
        target: str,
        message_type: str,
        content_type: str,
        payload: bytes,
        *,
        priority: Priority,
        timeout: float | None,
        sender: str | None = None,
        deadline_ns: int = 0,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        """Send and wait up to `timeout` seconds (None: the connection's default) for the reply; raises AskTimeout."""

    def committed(self, address: str) -> tuple[AgentType, bytes | None]:
        """Type and last committed state of an agent of this process, None before its first; raises NotOwned."""

    def register(self, cls: type[Agent]) -> None:
        """Make sure that agents of this class can run; raises UnknownAgentType if they can't."""

    def new_agent_id(self) -> str:
        """A fresh uuid4 in hex for an agent to spawn; the connection chooses it, since the id decides the place."""

    def now_ns(self) -> int:
        """The connection's clock, nanoseconds since the epoch."""


_bound: list[Connection] = []
_here: ContextVar[Connection | None] = ContextVar("rookery_connection", default=None)


def bind(connection: Connection) -> None:
    """Make this the current connection of the calling context, and the newest of the process."""
    _bound.append(connection)
    _here.set(connection)


def unbind(connection: Connection) -> None:
    """Forget the connection everywhere; doing so twice is fine."""
    _bound[:] = [other for other in _bound if other is not connection]
    if _here.get() is connection:
        _here.set(None)


def current() -> Connection:
    """The connection bound in the calling context, else the newest of the process; raises NotBound.

    The second is for code whose context is not a copy of the binding one: fixtures of a test runner, threads.
    """
    here = _here.get()
    # A copied context may still name a connection that was unbound elsewhere.
    if here is not None and any(here is other for other in _bound):
        return here
    if _bound:
        return _bound[-1]
    raise NotBound("AgentManager()")
