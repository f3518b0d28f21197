"""What a NATS message says: the subject is the address of an agent, the headers are those of a JSON record on Kafka.

    agents.Carrier/UA          the agent Carrier/UA
    agents.Order/a%20b%2Ec     the agent `Order/a b.c`: what a subject can't hold is %XX of its UTF-8 bytes

Nothing here talks to a server.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote, unquote

import msgspec
from msgspec import Struct

from rookery.agents.effects import priority_of
from rookery.schemas.address import NATS_TYPE, check, parse
from rookery.schemas.envelope import JSON, Priority, Received
from rookery.schemas.errors import InvalidAddress, Undecodable
from rookery.schemas.payload import OCTETS
from rookery.streams.nats.errors import InvalidSubject

MESSAGE_ID: Final = "Nats-Msg-Id"
"""The header by which a stream drops repeats."""
TIMEOUT_MS_MAX: Final = 3_600_000
"""An hour: whoever waits takes up room of the edge."""
# Written as they are besides letters and digits; a dot would end a token, and two in a row leave an empty one.
_PLAIN = "/_-:@=+,~!$&'()"
_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_UNFIT = re.compile(r"[\s\x00-\x1f\x7f]")
# Headers that say something to the edge; the others travel on with the message.
_KNOWN = frozenset(
    {"id", "type", "content-type", "priority", "deadline-ms", "timeout-ms", "sender", "reply", MESSAGE_ID.lower()}
)


class Incoming(Struct, frozen=True):
    """A message for an agent; `deadline_ns` is nanoseconds since the epoch (0: none), `timeout` seconds that its sender
    waits. `stored_only`: the sender wants to know that Kafka has it, not the answer."""

    target: str
    type: str
    content_type: str
    payload: bytes
    priority: Priority
    id: str
    sender: str | None
    deadline_ns: int
    timeout: float | None
    stored_only: bool
    headers: dict[str, str]


def subject_of(prefix: str, address: str) -> str:
    """The subject under which an agent is reached."""
    return f"{prefix}.{quote(address, safe=_PLAIN).replace('.', '%2E')}"


def address_of(prefix: str, subject: str) -> str:
    """The agent that a subject means; raises InvalidAddress."""
    text = subject.removeprefix(f"{prefix}.")
    if _PERCENT.search(text):
        raise InvalidAddress(text, "a `%` must be followed by two hex digits")
    try:
        address = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise InvalidAddress(text, "its %XX are no UTF-8") from None
    if parse(address)[0] == NATS_TYPE:
        raise InvalidAddress(address, "it leads back to NATS: publish there")
    return check(address)


def read(prefix: str, subject: str, headers: Mapping[str, str] | None, data: bytes, default_id: str = "") -> Incoming:
    """Read a NATS message; `default_id` is its id if it brings none. Raises InvalidAddress, Undecodable."""
    target = address_of(prefix, subject)
    given = {name.lower(): value for name, value in (headers or {}).items()}
    try:
        "".join((*given, *given.values())).encode()
    except UnicodeEncodeError:
        raise Undecodable("its headers are no UTF-8") from None
    priority = given.get("priority", "normal")
    if priority not in (names := [lane.name.lower() for lane in Priority]):
        raise Undecodable(f"the header priority must be one of {', '.join(names)}")
    if (reply := given.get("reply", "answer")) not in {"answer", "stored"}:
        raise Undecodable("the header reply must be answer or stored")
    if (timeout_ms := _number(given, "timeout-ms")) > TIMEOUT_MS_MAX:
        raise Undecodable(f"the header timeout-ms may be {TIMEOUT_MS_MAX} at most")
    message_type, content_type = content(given, data)
    return Incoming(
        target=target,
        type=message_type,
        content_type=content_type,
        payload=data,
        priority=Priority[priority.upper()],
        id=given.get("id") or given.get(MESSAGE_ID.lower()) or default_id,
        sender=given.get("sender"),
        deadline_ns=_number(given, "deadline-ms") * 1_000_000,
        timeout=timeout_ms / 1000 if timeout_ms else None,
        stored_only=reply == "stored",
        headers={name: value for name, value in given.items() if name not in _KNOWN and not name.startswith("nats-")},
    )


def content(given: Mapping[str, str], data: bytes) -> tuple[str, str]:
    """Type and content type of a body, as its headers say (names in lower case).

    Without content-type it is JSON if it is JSON, else bytes; without type a JSON object may bring its own as "type",
    and bytes are of the type "bytes". Raises Undecodable for what is called JSON and is none.
    """
    message_type, content_type = given.get("type", ""), given.get("content-type", "")
    if message_type and content_type:
        return message_type, content_type
    if not content_type or content_type.partition(";")[0].strip().lower() == JSON:
        try:
            body: Any = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            if content_type:
                raise Undecodable(str(error)) from None
            return message_type or "bytes", OCTETS
        kind = body.get("type") if isinstance(body, dict) else None
        return message_type or (kind if isinstance(kind, str) else ""), content_type or JSON
    return "bytes" if content_type == OCTETS else "", content_type


def _number(given: Mapping[str, str], name: str) -> int:
    """A whole number of milliseconds that fits 63 bits as nanoseconds."""
    text = given.get(name) or "0"
    if not (text.isascii() and text.isdigit() and len(text) <= 13):
        raise Undecodable(f"the header {name} must be a whole number of milliseconds")
    if (number := int(text)) > 9_223_372_036_854:
        raise Undecodable(f"the header {name} is too large")
    return number


def target_subject(envelope: Received) -> str:
    """The subject that an agent's message to `nats/<subject>` is for; raises InvalidSubject."""
    subject = envelope.target.partition("/")[2]
    tokens = subject.split(".")
    if _UNFIT.search(subject):
        raise InvalidSubject(subject, "it has white space or control characters")
    if not all(tokens):
        raise InvalidSubject(subject, "it has an empty part between its dots")
    if not {"*", ">"}.isdisjoint(tokens):
        raise InvalidSubject(subject, "it has wildcards")
    if subject.startswith(("$", "_INBOX.")):
        raise InvalidSubject(subject, "it is the server's own")
    return subject


def headers_of(envelope: Received) -> dict[str, str]:
    """What a NATS subscriber sees around the payload of an agent's message."""
    found = {
        **_fit(envelope.headers.items()),
        MESSAGE_ID: envelope.id,
        "type": envelope.type,
        "content-type": envelope.content_type,
        "sender": envelope.sender,
        "priority": priority_of(envelope).name.lower(),
        "correlation-id": envelope.correlation_id,
        "deadline-ms": str(envelope.deadline // 1_000_000) if envelope.deadline > 0 else "",
    }
    return {name: value for name, value in found.items() if value}


def _fit(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Those that NATS takes: names are printable ASCII without spaces and colons."""
    return {
        name: value
        for name, value in headers
        if name.isascii() and name.isprintable() and not {" ", ":"}.intersection(name) and name
    }
