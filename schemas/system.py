"""Messages that Rookery itself sends to agents: spawn, stop, pause, resume, read the state, send in an agent's name,
and the replies to what agents ask in their turns.

They travel as ordinary envelopes with JSON payloads, so any Kafka client can write them; their type names start with
`rookery.`, which no handler may use.
"""

from __future__ import annotations

from msgspec import Raw, Struct

from rookery.schemas.envelope import Priority

PREFIX = "rookery."
SPAWN = "rookery.spawn"
STATE = "rookery.state"
STOP = "rookery.stop"
PAUSE = "rookery.pause"
RESUME = "rookery.resume"
REPLY = "rookery.reply"
SEND = "rookery.send"
FAILURE = "rookery.failure"

# The header of a reply that says that it is an error; its value is the error's `reason`.
ERROR_HEADER = "error"

# The header of a request whose sender waits in its turn: who waits, the one that began first, one address a line.
ASKING_HEADER = "asking"
# How the ids of such requests begin: the reply is of the type REPLY then, and belongs to a step.
ASK_PREFIX = "ask:"


class Spawn(Struct, frozen=True):
    """Make the target an agent of class `type`; `args` are the arguments of its on_spawn, each one JSON value."""

    type: str
    args: list[Raw] = []


class SendAs(Struct, frozen=True):
    """Send a message in the name of the agent that gets this; `payload` is base64 in JSON."""

    target: str
    type: str
    content_type: str
    payload: bytes
    priority: Priority = Priority.NORMAL
    headers: dict[str, str] = {}


class Failure(Struct, frozen=True):
    """The payload of an error reply: `error` is the code (`reason` of the typed error), `text` is for people."""

    error: str
    text: str
