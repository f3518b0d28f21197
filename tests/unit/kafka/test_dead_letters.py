"""Which letters a selection holds, and what people see of them; no broker."""

import json
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import click
import pytest

from rookery.ops.settings import Settings
from rookery.schemas.deadletter import DeadLetter
from rookery.schemas.envelope import encode_body, seal
from rookery.streams.core.routing import Topics
from rookery.streams.kafka.cli_dlq import PAYLOAD_MAX, Moment, Place, describe, readable, selection
from rookery.streams.kafka.deadletters import Letter, Selection
from rookery.streams.kafka.replay import How, Replayer

NO_FILTER = {"reasons": (), "types": (), "agent_types": ()}


def letter(replayed: bool = False, **content: Any) -> Letter:
    facts = {"reason": "expired", "target": "Order/1", "type": "Pay", "id": "x", **content}
    return Letter(2, 5, 1_000_000, DeadLetter(**facts), replayed)


@pytest.mark.parametrize(
    ("wanted", "holds"),
    [
        (Selection(), True),
        (Selection(reasons=frozenset({"expired", "misrouted"})), True),
        (Selection(reasons=frozenset({"misrouted"})), False),
        (Selection(types=frozenset({"Pay"}), agent_types=frozenset({"Order"})), True),
        (Selection(types=frozenset({"Pay"}), agent_types=frozenset({"Other"})), False),
        (Selection(agent="Order/1"), True),
        (Selection(agent="Order/*"), True),
        (Selection(agent="Order"), False),
        (Selection(id="x"), True),
        (Selection(id="y"), False),
        (Selection(since_ms=1_000_000, until_ms=1_000_001), True),
        (Selection(since_ms=1_000_001), False),
        (Selection(until_ms=1_000_000), False),
        (Selection(replayed=False), True),
        (Selection(replayed=True), False),
        (Selection(places=frozenset({(2, 5), (0, 0)})), True),
        (Selection(places=frozenset({(5, 2)})), False),
    ],
)
def test_a_selection_holds_what_fits_all_of_it(wanted: Selection, holds: bool) -> None:
    assert (letter() in wanted) is holds


def test_the_class_of_a_spawned_agent_is_the_one_that_the_worker_wrote_down() -> None:
    assert letter(target="0" * 12 + "4" + "0" * 3 + "8" + "0" * 15, agent_type="Order").agent_type == "Order"
    assert letter(target="what is this").agent_type == ""


def test_the_fields_of_json() -> None:
    facts = letter(topic="a.inbox.low", partition=2, offset=9, timestamp=1_500, attempts=1).as_full_dict()
    assert json.loads(json.dumps(facts)) == facts
    assert (facts["letter"], facts["offset"], facts["sent"]) == ("2/5", 9, "1970-01-01T00:00:01.500Z")
    assert facts["last_offset"] == 9
    assert facts["time"] == "1970-01-01T00:16:40.000Z"


def test_times_are_ages_or_dates() -> None:
    read = Moment()
    assert read.convert("2026-01-01T00:00", None, None) == read.convert("2026-01-01T01:00+01:00", None, None)
    assert abs(read.convert("2h", None, None) - (time.time() - 7200) * 1000) < 60_000
    for wrong in ("yesterday", "2w", ""):
        with pytest.raises(click.BadParameter, match="30m, 2h, 7d"):
            read.convert(wrong, None, None)


def test_places() -> None:
    assert Place().convert("3/17", None, None) == (3, 17)
    with pytest.raises(click.BadParameter, match="partition/offset"):
        Place().convert("17", None, None)


def test_no_filter_selects_everything() -> None:
    assert selection(**NO_FILTER).is_everything
    assert not selection(letters=((1, 2),), **NO_FILTER).is_everything


def test_a_letter_in_full_can_not_move_the_cursor() -> None:
    value = seal(encode_body("", "Order/1", b'{"n": "\xc3\xa9"}', 0, 1, "x", "Pay", "application/json"))
    shown = describe(letter(value=value, error="\x1b[2J gone", traceback="Traceback:\n  line"))
    assert "\x1b" not in shown
    assert '"n": "é"' in shown
    assert "\n  Traceback:\n    line" in shown


@pytest.mark.parametrize(("data", "shown"), [(b"\xff", r"b'\xff'"), (b"hi", "hi"), (b"[" * 99_999, "[" * PAYLOAD_MAX)])
def test_any_payload_is_shown(data: bytes, shown: str) -> None:
    assert readable(data).startswith(shown)
    assert len(readable(data)) < PAYLOAD_MAX + 100


def test_two_letters_about_one_record_are_sent_once_in_a_run_even_again() -> None:
    """An outbox that could not hear its ack sends a letter twice."""
    settings = Settings.load(app_id="shop")
    body = encode_body("", "Order/1", b"{}", 0, 1, "x", "Pay", "application/json")
    first = letter(value=seal(body), topic="shop.inbox.low", offset=7)
    for again in (False, True):
        replayer = Replayer(SimpleNamespace(topics=Topics("shop")), settings, {}, How(again=again))  # type: ignore[arg-type]
        done: set[bytes] = set()
        replayer._take(first, done)
        replayer._take(replace(first, offset=first.offset + 1), done)
        assert (len(replayer._chunk), replayer.tally.skipped) == (1, 1)


def test_what_came_from_elsewhere_or_does_not_fit_is_refused() -> None:
    settings = Settings.load(app_id="shop")
    replayer = Replayer(SimpleNamespace(topics=Topics("shop")), settings, {}, How())  # type: ignore[arg-type]
    replayer._take(letter(topic="other.inbox.low"), set())
    large = encode_body("", "Order/1", b"x" * (settings.topic_bytes_max - 150), 0, 1, "x", "Pay", "application/json")
    replayer._take(letter(value=seal(large), topic="shop.inbox.low", offset=1), set())
    assert not replayer._chunk
    assert [why.split()[0] for why in replayer.tally.refused] == ["came", "is"]
