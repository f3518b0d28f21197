"""What the record is that sends a dead letter again."""

from dataclasses import dataclass, field

import pytest

from rookery.schemas.deadletter import DeadLetter, decode_dead_letter, encode_dead_letter
from rookery.schemas.envelope import Received, decode, decode_json, encode_body, seal
from rookery.schemas.replay import BROKEN, NotReplayable, Replay, replay, replay_id

SECOND = 1_000_000_000
NOW = 1_000 * SECOND


@dataclass
class Record:
    value: bytes
    offset: int = 7
    key: bytes | None = b"A/1"
    headers: list[tuple[str, bytes | None]] = field(default_factory=list)
    timestamp: int = 5


def letter_of(record: Record, envelope: Received | None = None, reason: str = "handler-failed") -> DeadLetter:
    data = encode_dead_letter(
        record, topic="app.inbox.high", partition=3, envelope=envelope, reason=reason, error="boom", app_id="app"
    )
    return decode_dead_letter(data)


def sealed(**more: object) -> DeadLetter:
    body = encode_body("S/1", "A/1", b'{"n":1}', 11, 2, "old", "Add", "application/json", **more)  # type: ignore[arg-type]
    value = seal(body, source=2, sequence=99)
    return letter_of(Record(value), decode(value))


def json_letter(**headers: str) -> DeadLetter:
    pairs: list[tuple[str, bytes | None]] = [("content-type", b"application/json")]
    pairs += [(name.replace("_", "-"), value.encode()) for name, value in headers.items()]
    record = Record(b'{"n":1}', headers=pairs)
    return letter_of(record, decode_json(b"A/1", record.value, pairs, 5, "app.inbox.high", 3, 7))


def read(made: Replay) -> Received:
    return (
        decode_json(made.key, made.value, made.headers, 9, "t", 0, 1) if len(made.headers) > 1 else decode(made.value)
    )


def test_an_envelope_goes_again_as_a_message_from_outside() -> None:
    letter = sealed(reply_to="client:gone", schema_version=4, headers={"traceparent": "t"})
    made = replay(letter, "new", NOW)
    envelope = read(made)
    assert (made.target, made.key) == ("A/1", b"A/1")
    assert made.headers == [("replay-id", replay_id(letter).encode())]
    assert (envelope.id, envelope.correlation_id, envelope.reply_to) == ("new", "old", "")
    assert (envelope.delivery.source, envelope.delivery.sequence, envelope.delivery.schema_version) == (0, 0, 4)
    assert envelope.headers == {"traceparent": "t", "replay-of": "old"}
    assert (envelope.sender, envelope.payload, envelope.timestamp, envelope.type) == ("S/1", b'{"n":1}', 11, "Add")
    assert (envelope.priority, envelope.content_type) == (2, "application/json")


def test_an_envelope_without_an_id_is_named_by_its_place() -> None:
    value = seal(encode_body("S/1", "A/1", b"", 11, 2, "", "Add", "application/json"))
    envelope = read(replay(letter_of(Record(value), decode(value)), "new", NOW))
    assert envelope.headers["replay-of"] == "app.inbox.high/3/7"
    assert envelope.correlation_id == ""


def test_json_goes_again_as_json() -> None:
    letter = json_letter(type="Add", id="old", reply_to="me", mine="kept", traceparent="t")
    made = replay(letter, "new", NOW)
    envelope = read(made)
    assert (made.target, made.key, made.value) == ("A/1", b"A/1", b'{"n":1}')
    assert ("mine", b"kept") in made.headers
    assert [name for name, _ in made.headers].count("id") == 1
    assert (envelope.id, envelope.type, envelope.reply_to, envelope.sender) == ("new", "Add", "", "json:me")
    assert envelope.headers == {"traceparent": "t", "replay-of": "old"}
    assert envelope.correlation_id == "old"


@pytest.mark.parametrize("letter", [sealed(deadline=NOW - 1), json_letter(deadline_ms=str(NOW // 1_000_000 - 1))])
def test_a_deadline_that_has_passed_needs_a_new_one(letter: DeadLetter) -> None:
    with pytest.raises(NotReplayable, match="--extend"):
        replay(letter, "new", NOW)
    assert read(replay(letter, "new", NOW, extend=60.0)).deadline == NOW + 60 * SECOND


def test_a_deadline_that_has_not_passed_stays() -> None:
    assert read(replay(sealed(deadline=NOW + 1), "new", NOW, extend=60.0)).deadline == NOW + 1
    assert read(replay(sealed(), "new", NOW, extend=60.0)).deadline == 0


@pytest.mark.parametrize("reason", sorted(BROKEN))
def test_what_could_not_be_read_goes_only_raw(reason: str) -> None:
    letter = letter_of(Record(b"\x00", headers=[("replay-of", b"older"), ("a", b"1")]), None, reason)
    with pytest.raises(NotReplayable, match="--raw"):
        replay(letter, "new", NOW)
    made = replay(letter, "new", NOW, raw=True)
    headers = [("a", b"1"), ("replay-id", replay_id(letter).encode()), ("replay-of", b"app.inbox.high/3/7")]
    assert made == Replay(None, b"A/1", b"\x00", headers)


@pytest.mark.parametrize("reason", ["not-a-letter", "log-truncated"])
def test_what_is_no_message_goes_never(reason: str) -> None:
    with pytest.raises(NotReplayable):
        replay(DeadLetter(reason=reason, topic="app.inbox.high", value=b"?"), "new", NOW, raw=True)


def test_the_id_is_a_function_of_the_record() -> None:
    value = seal(encode_body("S/1", "A/1", b"", 11, 2, "x", "Add", "application/json"))
    one = replay_id(letter_of(Record(value)))
    assert one == replay_id(letter_of(Record(value), reason="expired"))
    others = [Record(value, offset=8), Record(value, timestamp=6)]
    assert len({one, *(replay_id(letter_of(other)) for other in others)}) == 3
