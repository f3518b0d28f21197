"""Sending a dead letter again: what the new record is made of. Pure functions of the letter and the time.

The new message has an id of its own that is a function of where the old one lay, so that sending it twice is one
message to the receiver's window of ids; it names the old one in `replay-of`.
"""

from __future__ import annotations

import uuid
from typing import NamedTuple

from rookery.schemas.deadletter import DeadLetter
from rookery.schemas.envelope import REPLAY_OF, Received, decode, decode_json, envelope_of, is_json, seal
from rookery.schemas.errors import EnvelopeError, RookeryError
from rookery.schemas.partition_errors import LogTruncated

# Reasons that lie in the bytes themselves: the same bytes fail again.
BROKEN = frozenset({"bad-envelope", "crc-mismatch", "invalid-address", "missing-crc", "undecodable"})
NOT_A_LETTER = "not-a-letter"
# Kafka header of a record that was sent again: its `replay_id`, so that it is found without being read.
REPLAY_ID = "replay-id"


class NotReplayable(RookeryError):
    """A dead letter that can't be sent again in this way; `why` groups the letters of one cause."""

    reason = "not-replayable"

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(why)


class Replay(NamedTuple):
    """The record to send; `target` decides its partition, None for the partition where it lay."""

    target: str | None
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]

    @property
    def size(self) -> int:
        """Bytes of the record as far as a topic counts them, rounded up."""
        return len(self.key) + len(self.value) + sum(len(k.encode()) + len(v) + 10 for k, v in self.headers) + 100


def coordinates(letter: DeadLetter) -> str:
    """Where the message lay: `topic/partition/offset`."""
    return f"{letter.topic}/{letter.partition}/{letter.offset}"


def replay_id(letter: DeadLetter) -> str:
    """The id of the new message: the same for every letter about the same record.

    The record's time tells it from one at the same place in a topic that was made anew.
    """
    name = f"rookery-replay:{letter.app_id}/{coordinates(letter)}/{letter.timestamp}"
    return uuid.uuid5(uuid.NAMESPACE_URL, name).hex


def replay(
    letter: DeadLetter, message_id: str, now_ns: int, *, extend: float | None = None, raw: bool = False
) -> Replay:
    """The record that sends the letter's message again.

    A deadline that has passed becomes `extend` seconds from now. With `raw` a message that could not be read goes as it
    is. Nobody waits for a reply any more: none is asked for. Raises NotReplayable.
    """
    headers = [
        (header.key, header.value) for header in letter.headers if header.key.lower() not in {REPLAY_OF, REPLAY_ID}
    ]
    headers.append((REPLAY_ID, replay_id(letter).encode()))
    origin = letter.id or coordinates(letter)
    if letter.reason == NOT_A_LETTER:
        raise NotReplayable("is no dead letter: something else writes to the dead-letter topic")
    if letter.reason == LogTruncated.reason:
        raise NotReplayable(f"{letter.reason}: the log has deleted the records, there is nothing to send")
    if letter.reason in BROKEN:
        if not raw:
            raise NotReplayable(f"{letter.reason}: the same bytes fail again; send them as they are with --raw")
        return Replay(None, letter.key, letter.value, [*headers, (REPLAY_OF, origin.encode())])
    try:
        if is_json(headers):
            return _json(letter, headers, message_id, origin, now_ns, extend)
        envelope = envelope_of(decode(letter.value))
    except EnvelopeError as error:
        raise NotReplayable(f"{error.reason}: the letter's bytes can't be read") from None
    envelope.id = message_id
    envelope.correlation_id = envelope.correlation_id or letter.id
    envelope.headers[REPLAY_OF] = origin
    envelope.deadline = _deadline(envelope.deadline, now_ns, extend)
    for field in ("reply_to", "crc32"):
        envelope.ClearField(field)
    if envelope.HasField("delivery"):  # it comes from outside now: no source, no sequence, no attempts
        for field in ("source", "sequence", "attempt"):
            envelope.delivery.ClearField(field)
    return Replay(envelope.target, envelope.target.encode(), seal(envelope.SerializeToString()), headers)


def _json(
    letter: DeadLetter,
    headers: list[tuple[str, bytes]],
    message_id: str,
    origin: str,
    now_ns: int,
    extend: float | None,
) -> Replay:
    envelope: Received = decode_json(
        letter.key, letter.value, headers, 0, letter.topic, letter.partition, letter.offset
    )
    new = {
        "id": message_id,
        "correlation-id": envelope.correlation_id or letter.id,
        "sender": envelope.sender,
        "reply-to": "",
        "deadline-ms": str(_deadline(envelope.deadline, now_ns, extend) // 1_000_000 or ""),
        REPLAY_OF: origin,
    }
    kept = [(key, value) for key, value in headers if key.lower() not in new]
    made = [(key, value.encode()) for key, value in new.items() if value]
    return Replay(envelope.target, letter.key, letter.value, kept + made)


def _deadline(deadline: int, now_ns: int, extend: float | None) -> int:
    if not deadline or deadline > now_ns:
        return deadline
    if extend is None:
        raise NotReplayable("its deadline has passed: give it a new one with --extend SECONDS")
    return now_ns + round(extend * 1e9)
