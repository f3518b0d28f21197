from dataclasses import dataclass, field

import pytest

from rookery._version import __version__
from rookery.schemas.deadletter import DeadLetter, decode_dead_letter, encode_dead_letter
from rookery.schemas.envelope import Envelope
from rookery.schemas.errors import Undecodable


@dataclass
class Record:
    offset: int = 42
    key: bytes | None = b"A/1"
    value: bytes | None = b"\x00\xff"
    headers: list[tuple[str, bytes | None]] = field(default_factory=list)
    timestamp: int = 1_500


def letter_of(record: Record, envelope: Envelope | None = None, error: str = "boom", traceback: str = "") -> DeadLetter:
    return decode_dead_letter(
        encode_dead_letter(
            record,
            topic="app.inbox.low",
            partition=3,
            envelope=envelope,
            reason="handler-failed",
            error=error,
            traceback=traceback,
            attempts=2,
            app_id="app",
        )
    )


def test_the_record_is_kept_whole() -> None:
    letter = letter_of(Record(headers=[("a", b"1"), ("a", b"2"), ("empty", None)]))
    assert (letter.value, letter.key, letter.offset, letter.timestamp) == (b"\x00\xff", b"A/1", 42, 1_500)
    assert [(header.key, header.value) for header in letter.headers] == [("a", b"1"), ("a", b"2"), ("empty", b"")]
    assert (letter.topic, letter.partition, letter.reason, letter.attempts) == ("app.inbox.low", 3, "handler-failed", 2)
    assert (letter.app_id, letter.rookery_version, letter.error) == ("app", __version__, "boom")
    assert letter.target == ""


def test_what_the_envelope_said() -> None:
    letter = letter_of(Record(), Envelope(target="A/1", sender="B/2", id="7", type="Add"))
    assert (letter.target, letter.sender, letter.id, letter.type) == ("A/1", "B/2", "7", "Add")


def test_it_never_fails_for_the_text_of_an_error() -> None:
    letter = letter_of(Record(key=None, value=None), error="\ud800" * 10_000, traceback="x" * 10_000 + "end")
    assert letter.error == "?" * 4_000
    assert len(letter.traceback) == 8_000
    assert letter.traceback.endswith("end")


def test_garbage() -> None:
    with pytest.raises(Undecodable):
        decode_dead_letter(b"\xff")
