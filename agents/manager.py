"""AgentManager and AgentHandle: how code outside agents spawns them, writes to them and reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NoReturn, TypeVar, overload

import msgspec

from rookery.agents.agent import Agent
from rookery.agents.binding import Connection, Reply, current
from rookery.agents.effects import HasId, address_of
from rookery.agents.types import AgentType
from rookery.schemas import payload as codecs
from rookery.schemas.address import check
from rookery.schemas.envelope import JSON, Priority
from rookery.schemas.errors import AgentError, AgentStopped
from rookery.schemas.system import PAUSE, RESUME, SEND, SPAWN, STATE, STOP, Failure, SendAs, Spawn

T = TypeVar("T")

_into_builtins = codecs.decoder_for(Any)


class AgentManager:
    """Spawns, finds and stops agents of the application, client or test kit that is running."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection | None = None) -> None:
        """Bind to `connection`, else to the running one; raises NotBound if there is none."""
        self._connection = connection if connection is not None else current()

    async def spawn_agent(self, cls: type[Agent], *args: Any, timeout: float | None = None) -> str:
        """Make an agent of this class and return its id, once the turn that ran its on_spawn(*args) is committed.

        `timeout` is seconds (default: the connection's). Raises UnknownAgentType and SpawnRefused before anything is
        sent; AskTimeout, when the agent may exist or not; AgentError when on_spawn failed.
        """
        agent_type = AgentType.of(cls)
        self._connection.register(cls)
        spawn = Spawn(agent_type.name, agent_type.encode_spawn(args))
        handle = self.get_agent(self._connection.new_agent_id())
        await handle._ask_system(SPAWN, spawn, timeout)
        return handle.id

    def get_agent(self, agent: str) -> AgentHandle:
        """A handle on the agent with this id or address; nothing is sent. Raises InvalidAddress."""
        return AgentHandle(check(agent), self._connection)

    async def stop_agent(self, agent: str, *, timeout: float | None = None) -> None:
        """Retire an agent for good: its state is removed and it takes no more messages. Raises AskTimeout."""
        await self.get_agent(agent)._ask_system(STOP, {}, timeout)

    async def pause_agent(self, agent: str, *, timeout: float | None = None) -> None:
        """Keep an agent from taking messages until it is resumed; they wait in the journal. Raises AskTimeout."""
        await self.get_agent(agent)._ask_system(PAUSE, {}, timeout)

    async def resume_agent(self, agent: str, *, timeout: float | None = None) -> None:
        """Let a paused agent go on, with the message that paused it first; returns when the resume itself was handled,
        which is after the message if that one waits in the same priority (HIGH). Raises AskTimeout."""
        await self.get_agent(agent)._ask_system(RESUME, {}, timeout)


class AgentHandle:
    """One agent, from outside. Attributes that the agent declares read its last committed state in this process.

    Fields called like a method of the handle (`send`, `tell`, `ask`, `state`) are read with `await handle.state()`.
    """

    __slots__ = ("_connection", "id")

    def __init__(self, address: str, connection: Connection) -> None:
        """Made by AgentManager.get_agent."""
        self.id = address
        self._connection = connection

    def __repr__(self) -> str:
        return f"<AgentHandle {self.id}>"

    def __getattr__(self, name: str) -> Any:
        # Asked for by copy, pickle and debuggers; no state field starts like this.
        if name.startswith("_"):
            raise AttributeError(name)
        agent_type, state = self._connection.committed(self.id)
        try:
            return getattr(agent_type.decode_state(state), name)
        except AttributeError:
            raise AttributeError(f"agent {self.id} of type {agent_type.name} has no state field {name!r}") from None

    async def tell(self, message: Any, *, priority: Priority = Priority.NORMAL, deadline: float | None = None) -> None:
        """Send the agent a message; returns when the broker has it. `deadline` is seconds from now.

        Raises PayloadError, MessageTooLarge.
        """
        await self._connection.tell(
            self.id, *codecs.encode(message), priority=priority, deadline_ns=self._deadline_ns(deadline)
        )

    async def send(self, target: str | HasId, message: Any, *, priority: Priority = Priority.NORMAL) -> None:
        """Have this agent send a message to another one, in its own name and in a turn of its own.

        Returns when the broker has the request. Raises PayloadError, InvalidAddress, MessageTooLarge.
        """
        address = address_of(target)
        await self._connection.tell(
            self.id, *_system(SEND, SendAs(address, *codecs.encode(message), priority)), priority=priority
        )

    @overload
    async def ask(
        self,
        message: Any,
        timeout: float | None = None,
        *,
        priority: Priority = Priority.NORMAL,
        reply_type: type[T],
    ) -> T: ...
    @overload
    async def ask(
        self,
        message: Any,
        timeout: float | None = None,
        *,
        priority: Priority = Priority.NORMAL,
        reply_type: None = None,
    ) -> Any: ...
    async def ask(
        self,
        message: Any,
        timeout: float | None = None,
        *,
        priority: Priority = Priority.NORMAL,
        reply_type: Any = None,
    ) -> Any:
        """Send a message and return what its handler returned, once its turn is committed.

        The reply is decoded into `reply_type`, by default into builtins. `timeout` is seconds (default: the
        connection's); AskTimeout leaves open whether the message is handled. Raises AgentStopped, PayloadError,
        MessageTooLarge; and AgentError when the handler failed, or when the message was refused: then its
        `error_type` is the code of the reason, such as "unknown-handler".
        """
        reply = await self._connection.ask(self.id, *codecs.encode(message), priority=priority, timeout=timeout)
        return self._result(reply, reply_type)

    async def state(self, *, timeout: float | None = None) -> StateView:
        """The agent's committed state, wherever it lives, as builtins; raises AskTimeout."""
        return StateView(await self._ask_system(STATE, {}, timeout))

    async def _ask_system(self, message_type: str, message: Any, timeout: float | None) -> Any:
        # HIGH, so that it doesn't wait behind the backlog of the agent.
        reply = await self._connection.ask(
            self.id, *_system(message_type, message), priority=Priority.HIGH, timeout=timeout
        )
        return self._result(reply, None)

    def _result(self, reply: Reply, reply_type: Any) -> Any:
        if reply.error is not None:
            self._raise(reply)
        decode = _into_builtins if reply_type is None else codecs.decoder_for(reply_type)
        return decode(reply.payload, reply.content_type)

    def _raise(self, reply: Reply) -> NoReturn:
        code = reply.error or AgentError.reason
        try:
            text = msgspec.json.decode(reply.payload, type=Failure).text
        except msgspec.DecodeError:
            text = reply.payload.decode(errors="replace")
        if code == AgentStopped.reason:
            raise AgentStopped(self.id)
        raise AgentError(self.id, text, "" if code == AgentError.reason else code)

    def _deadline_ns(self, deadline: float | None) -> int:
        return 0 if deadline is None else self._connection.now_ns() + int(deadline * 1e9)


class StateView(Mapping[str, Any]):
    """A frozen copy of an agent's state, by key or by attribute; equal to a dict with the same content."""

    __slots__ = ("_values",)
    _values: dict[str, Any]

    def __init__(self, values: dict[str, Any]) -> None:
        object.__setattr__(self, "_values", values)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(f"the state has no field {name!r}, only {', '.join(self._values)}") from None

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"a view can't change the agent's {name!r}: send it a message")

    def __reduce__(self) -> tuple[Any, ...]:
        return StateView, (self._values,)

    def __repr__(self) -> str:
        return f"StateView({self._values!r})"


def _system(message_type: str, message: Any) -> tuple[str, str, bytes]:
    return message_type, JSON, msgspec.json.encode(message)
