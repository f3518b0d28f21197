"""What an agent does with the messages of Rookery itself; stopping is the engine's business."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from rookery.schemas.errors import PayloadError
from rookery.schemas.system import PAUSE, RESUME, SEND, SPAWN, STATE, SendAs, Spawn

if TYPE_CHECKING:
    from rookery.agents.agent import Agent
    from rookery.agents.effects import TurnContext
    from rookery.agents.types import AgentType
    from rookery.schemas.envelope import Received

S = TypeVar("S")


async def handle_system(agent_type: AgentType, agent: Agent, context: TurnContext, envelope: Received) -> Any:
    """Handle one `rookery.*` message in an open turn and return the result for the reply.

    Raises PayloadError, SpawnRefused, UnknownHandler, and whatever on_spawn or a send raises.
    """
    if envelope.type == SPAWN:
        started = agent.on_spawn(*agent_type.decode_spawn(read_spawn(envelope).args))
        if started is not None:
            await started
        return None
    if envelope.type == STATE:
        return agent_type.state_of(agent)
    if envelope.type in (PAUSE, RESUME):
        return None
    if envelope.type == SEND:
        sent = _read(envelope, SendAs)
        context.send_encoded(
            sent.target, sent.type, sent.content_type, sent.payload, sent.priority, sent.headers or None
        )
        return None
    raise agent_type.unknown_handler(envelope.type)


def read_spawn(envelope: Received) -> Spawn:
    """The spawn message in an envelope, whose `type` names the class to make; raises PayloadError."""
    return _read(envelope, Spawn)


def _read(envelope: Received, form: type[S]) -> S:
    try:
        return msgspec.json.decode(envelope.payload, type=form)
    except msgspec.DecodeError as error:
        raise PayloadError(str(error), envelope.type) from error
