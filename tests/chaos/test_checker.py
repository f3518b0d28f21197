"""Each anomaly, fed to the checker by hand: one small run that is right, and what it takes to make it wrong.

The journal is written with the product's encoders, so its documented layout, as the checker reads it, is tested, too.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from rookery.schemas.cells import Step, StepState, encode_cell
from rookery.schemas.envelope import encode_body, seal
from rookery.schemas.journal import (
    LanePosition,
    Position,
    Slot,
    encode_agent,
    encode_position,
    encode_slot,
    lease_header,
    slot_key,
)
from tests.chaos import evidence as names
from tests.chaos.checker import check
from tests.chaos.evidence import ClientSend, Evidence, InboxRecord, JournalRow, Letter, Reply
from tests.chaos.wire import lease_of, read_envelope, read_position, write_envelope
from tests.chaos.workload import chain

A, B, CLIENT = "Clerk/0", "Clerk/1", "client:gen"
SENT = ("run.inbox.normal", 0)


def do(name: str, target: str, n: int, *ops: list[Any], asks: bool = False) -> bytes:
    return write_envelope(
        sender=CLIENT, target=target, id=name, type="do", payload=msgspec.json.encode({"n": n, "ops": ops}), priority=1,
        reply_to=CLIENT if asks else "",
    )  # fmt: skip


def passed(name: str, n: int, sequence: int, *ops: list[Any]) -> bytes:
    """A message of agent A to B."""
    payload = msgspec.json.encode({"n": n, "ops": ops})
    return seal(encode_body(A, B, payload, 1, 1, name, "do", "application/json"), 0, sequence)


class Run:
    """A client tells A to send twice to B, and asks it once; one order fails, one record is noise."""

    def __init__(self) -> None:
        self.values = [
            do("c1", A, 1, ["add", 5], ["send", B, 1, [["add", 7]]]),
            do("c2", A, 2, ["pay", B, 1, 3], asks=True),
            do("c2", A, 2, ["pay", B, 1, 3], asks=True),
            do("c3", A, 0, ["fail"]),
            b"noise",
            passed("a1", 1, 1, ["add", 7]),
            passed("a2", 2, 2, ["take", 3]),
        ]
        self.sends = [ClientSend("c1", A, 1, 1, True), ClientSend("c2", A, 1, 2, True), ClientSend("c3", A, 1, 0, True)]
        self.letters = [Letter(1, 0, 3, self.values[3], "handler-failed"), Letter(1, 0, 4, b"noise", "missing-crc")]
        self.replies = [Reply("c2", "r1"), Reply("c2", "r1")]
        self.heard_by_a = [2, 2, chain(chain(0, "c1"), "c2")]
        self.heard_by_b = [2, 2, chain(chain(0, "a1"), "a2")]
        none = {"balance": -3, "odd": [], "answered": 0, "mixed": 0, "backwards": 0}
        self.books: dict[str, Any] = {
            A: {
                "heard": {f"{CLIENT}|1": self.heard_by_a},
                "sent": {f"{B}|1": 2},
                "value": 5,
                "balance": -3,
                "odd": [],
                **none,
            },
            B: {"heard": {f"{A}|1": self.heard_by_b}, "sent": {}, "value": 7, **none, "balance": 3},
        }
        self.slot_messages = self.values[5:7]
        self.positions = [self.position(5, 3, 0), self.position(7, 3, 1)]
        self.leases = [0, 0, 0, 0, 0]
        self.states: dict[str, Any] | None = None

    def position(self, prefix: int, next_sequence: int, sent_through: int) -> bytes:
        lane, idle = LanePosition(prefix, b"", array("Q", [0])), LanePosition.fresh(0, 1)
        return encode_position(Position([idle, lane, idle], 2, next_sequence, sent_through, 8, 1))

    def journal(self) -> list[JournalRow]:
        states = self.states or self.books
        slot = encode_slot(Slot(1, {SENT: [(B.encode(), value) for value in self.slot_messages]}))
        rows: list[tuple[bytes, bytes]] = [(slot_key(1, 8), slot), (b"~pos", self.positions[0])]
        rows += [
            (agent.encode(), encode_agent("Clerk", 0, 0, msgspec.msgpack.encode(books)))
            for agent, books in states.items()
        ]
        rows.append((b"~pos", self.positions[1]))
        claim = JournalRow(0, 0, b"~claim", b"", None)
        return [claim, *(JournalRow(0, n + 1, *row, self.leases[n]) for n, row in enumerate(rows))]

    def evidence(self) -> Evidence:
        records = []
        for offset, value in enumerate(self.values):
            message = None if value == b"noise" else read_envelope(value)
            records.append(InboxRecord(1, 0, offset, value, message))
        return Evidence(
            self.sends, records, self.journal(), self.letters, self.replies, self.books, {(1, 0): len(self.values)}
        )

    def found(self) -> set[str]:
        return {anomaly.name for anomaly in check(self.evidence())[0]}


def hears(run: Run, agent: str, count: int, last: int, digest: int, odd: list[Any]) -> None:
    """Put something else in an agent's books."""
    (stream,) = run.books[agent]["heard"]
    run.books[agent].update(heard={stream: [count, last, digest]}, odd=[[stream, *one] for one in odd])


def lose_the_last(run: Run) -> None:
    hears(run, A, 1, 1, chain(0, "c1"), [])


def lose_an_acknowledged_one(run: Run) -> None:
    run.sends.append(ClientSend("c9", A, 1, 3, True))


def do_twice(run: Run) -> None:
    hears(run, A, 3, 2, 1, [[3, 2, "c2"]])


def swap(run: Run) -> None:
    hears(run, A, 2, 2, chain(chain(0, "c2"), "c1"), [[1, 2, "c2"], [3, 1, "c1"]])


def lose_a_send(run: Run) -> None:
    del run.values[6], run.positions[1:]
    run.positions.append(run.position(6, 3, 1))
    hears(run, B, 1, 1, chain(0, "a1"), [])
    run.books[B]["balance"] = 0


def send_without_commit(run: Run) -> None:
    del run.slot_messages[1]


def send_with_another_id(run: Run) -> None:
    run.values.append(passed("a3", 2, 3, ["take", 3]))
    run.positions[1] = run.position(8, 4, 1)
    hears(run, B, 3, 2, chain(chain(chain(0, "a1"), "a2"), "a3"), [[3, 2, "a3"]])
    run.books[B]["balance"] = 6


def send_from_a_stale_batch(run: Run) -> None:
    """A second owner claimed at 100; what the first wrote after it went out all the same."""
    rows = run.journal()
    late = seal(encode_body(A, B, b'{"n":3,"ops":[]}', 1, 1, "a3", "do", "application/json"), 0, 3)
    slot = encode_slot(Slot(2, {SENT: [(B.encode(), late)]}))
    end = [JournalRow(0, 100, b"~claim", b"", None), JournalRow(0, 101, b"~pos", run.position(8, 3, 1), 100)]
    rows += [*end, JournalRow(0, 102, slot_key(2, 8), slot, 0)]
    run.journal = lambda: rows  # type: ignore[method-assign]
    run.values.append(late)


def write_after_the_next_claim(run: Run) -> None:
    rows = [*run.journal(), JournalRow(0, 50, b"~claim", b"", None), JournalRow(0, 51, A.encode(), None, 0)]
    run.journal = lambda: rows  # type: ignore[method-assign]


def go_back(run: Run) -> None:
    run.positions = [run.position(7, 3, 1), run.position(5, 3, 0)]


def forget_the_reply(run: Run) -> None:
    run.replies.clear()


def reply_twice(run: Run) -> None:
    run.replies.append(Reply("c2", "r2"))


def write_another_state(run: Run) -> None:
    run.states = {A: {**run.books[A], "value": 6}, B: run.books[B]}


def count_wrongly(run: Run) -> None:
    run.books[A]["value"] = 6


def forget_a_letter(run: Run) -> None:
    run.letters.pop()


def change_a_letter(run: Run) -> None:
    run.letters[1] = run.letters[1]._replace(value=b"noice")


def give_up_what_can_be_handled(run: Run) -> None:
    run.letters.append(Letter(1, 0, 0, run.values[0], "handler-failed"))


def write_a_letter_for_nothing(run: Run) -> None:
    run.letters.append(Letter(1, 0, 77, b"", "handler-failed"))


def stop_early(run: Run) -> None:
    run.positions[1] = run.position(6, 3, 1)


def keep_a_slot(run: Run) -> None:
    run.positions[1] = run.position(7, 3, 0)


def keep_a_message(run: Run) -> None:
    rows = [*run.journal(), JournalRow(0, 9, f"{A}\x1fparked/1/00000000000000000001".encode(), b"\1", 0)]
    run.journal = lambda: rows  # type: ignore[method-assign]


def run_a_step_again(run: Run) -> None:
    key = f"{A}\x1fstep/1/00000000000000000000/000000".encode()
    steps = [encode_cell(Step("step", "draw", b"", StepState.DONE, payload=payload)) for payload in (b"1", b"2")]
    rows = [*run.journal(), *(JournalRow(0, 9 + n, key, value, 0) for n, value in enumerate([*steps, None]))]
    run.journal = lambda: rows  # type: ignore[method-assign]


def take_an_answer_twice(run: Run) -> None:
    run.books[A]["answered"] = 1


def mix_steps_up(run: Run) -> None:
    run.books[A]["mixed"] = 1


def let_an_older_token_in(run: Run) -> None:
    run.books[B]["backwards"] = 1


def fall_silent(run: Run) -> None:
    run.books[A] = None


WRONG: list[tuple[str, Callable[[Run], None]]] = [
    (names.LOST, lose_the_last),
    (names.LOST, lose_an_acknowledged_one),
    (names.DOUBLED, do_twice),
    (names.ORDER_INVERSION, swap),
    (names.LOST_SEND, lose_a_send),
    (names.GHOST_SEND, send_without_commit),
    (names.GHOST_SEND, send_with_another_id),
    (names.STALE_ACCEPTED, send_from_a_stale_batch),
    (names.STALE_ACCEPTED, go_back),
    (names.SPLIT_WRITER, write_after_the_next_claim),
    (names.REPLY_LOST, forget_the_reply),
    (names.REPLY_DOUBLED, reply_twice),
    (names.STATE_DIVERGENCE, write_another_state),
    (names.STATE_DIVERGENCE, count_wrongly),
    (names.DEAD_LETTER_MISMATCH, forget_a_letter),
    (names.DEAD_LETTER_MISMATCH, change_a_letter),
    (names.DEAD_LETTER_MISMATCH, give_up_what_can_be_handled),
    (names.DEAD_LETTER_MISMATCH, write_a_letter_for_nothing),
    (names.STUCK, stop_early),
    (names.STUCK, keep_a_slot),
    (names.STUCK, fall_silent),
    (names.STUCK, keep_a_message),
    (names.DOUBLED, run_a_step_again),
    (names.REPLY_DOUBLED, take_an_answer_twice),
    (names.STATE_DIVERGENCE, mix_steps_up),
    (names.STALE_ACCEPTED, let_an_older_token_in),
]


def test_what_is_right_has_no_anomaly() -> None:
    found, log, journals = check(Run().evidence())
    assert found == []
    assert (log.handled, log.repeats, journals.claims) == (4, 1, 1)


@pytest.mark.parametrize(("name", "spoil"), WRONG, ids=[spoil.__name__ for _, spoil in WRONG])
def test_what_is_wrong_gets_its_name(name: str, spoil: Callable[[Run], None]) -> None:
    run = Run()
    spoil(run)
    assert name in run.found()


def test_every_anomaly_is_fed_by_hand() -> None:
    assert {name for name, _ in WRONG} == set(names.ANOMALIES)


def test_a_message_whose_outcome_is_unknown_may_be_missing() -> None:
    run = Run()
    run.sends.append(ClientSend("c9", A, 1, 3, False))
    assert run.found() == set()


def test_a_witness_names_stream_numbers_and_offsets() -> None:
    run = Run()
    lose_the_last(run)
    (anomaly,) = check(run.evidence())[0]
    assert anomaly.subject == "client:gen|1 at Clerk/0"
    assert "heard 1 up to number 1; the log has 2 up to 2, offsets 0 to 1" in anomaly.witness


def test_a_compacted_journal_is_not_held_against_what_was_sent() -> None:
    run = Run()
    send_without_commit(run)
    evidence = run.evidence()
    evidence.compacted = True
    assert check(evidence)[0] == []


def test_the_documented_layout_of_a_position_is_the_written_one() -> None:
    lanes = [LanePosition(prefix, b"\0\1\1", array("Q", [5, 6])) for prefix in (10, 20, 30)]
    position = read_position(encode_position(Position(lanes, 4, 9, 3, 64, 2)))
    assert [(lane.prefix, sorted(lane.done)) for lane in position.lanes] == [
        (10, [11, 12]),
        (20, [21, 22]),
        (30, [31, 32]),
    ]
    assert (position.next_slot, position.next_sequence, position.sent_through, position.ring) == (4, 9, 3, 64)
    assert lease_of([("l", lease_header(77))]) == 77
    assert lease_of([("l", struct.pack(">Q", 77))]) == 77
