"""Each anomaly is found when it is there, and only then: evidence written by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec

from rookery.schemas.cells import Place, Step, StepState, encode_cell, step_key
from rookery.schemas.deadletter import DeadLetter, decode_dead_letter, encode_dead_letter, encode_lost_stretch
from rookery.schemas.envelope import Envelope, decode, encode_body, seal
from rookery.schemas.journal import Slot, encode_agent, encode_slot
from rookery.schemas.partition_errors import LogTruncated
from rookery.schemas.system import STOP
from rookery.streams.memory import MemoryRecord
from tests.simulation import checks
from tests.simulation.broker import Batch
from tests.simulation.checks import check
from tests.simulation.evidence import Evidence, Post, Reply, fold, read
from tests.simulation.fleet import BALANCE, Do, Heard

A, B = "Interpreter/a", "Interpreter/b"


def body_of(sender: str, target: str, do: Do) -> bytes:
    return encode_body(sender, target, msgspec.json.encode(do), 1, 1, do.nonce, "Do", "application/json")


POSTED = seal(body_of("client:c", A, Do("m", 1, "m", [["give", B, 1, 5]])))
FAILED = seal(body_of("client:c", A, Do("f", 2, "f", [["fail"]])))
SENT = seal(body_of(A, B, Do("m.0", 1, "n0", [["take", 5]])), 0, 1)
STATE_A: dict[str, Any] = {
    "handled": [["client:c", 1, "m", 1, "m"]],
    "sent": [[B, 1, "m.0", 1, "n0"]],
    "numbers": {f"{B} 1": 1},
    "results": [],
    "asked": [],
    "count": 0,
    "balance": BALANCE - 5,
}
STATE_B: dict[str, Any] = {
    "handled": [[A, 1, "m.0", 1, "n0"]],
    "sent": [],
    "numbers": {},
    "results": [],
    "asked": [],
    "count": 0,
    "balance": BALANCE + 5,
}


def record(state: dict[str, Any]) -> bytes:
    return encode_agent("Interpreter", 0, 0, msgspec.msgpack.encode(state))


def letter(value: bytes, offset: int) -> DeadLetter:
    envelope = decode(value)
    stored = MemoryRecord(offset, envelope.target.encode(), value, (), 0)
    return decode_dead_letter(
        encode_dead_letter(
            stored, topic="x.inbox.normal", partition=0, envelope=envelope, reason="handler-failed", error="E"
        )
    )


def journal(a: dict[str, Any] = STATE_A, b: dict[str, Any] = STATE_B, sent: bytes = SENT) -> list[list[Batch]]:
    slot = encode_slot(Slot(1, {("x.inbox.normal", 0): [(B.encode(), sent)]}))
    return [
        [
            Batch(0, 0, [(b"~claim", b"c")]),
            Batch(1, 0, [(A.encode(), record(a)), (b"~out/1", slot)]),
            Batch(3, 0, [(B.encode(), record(b))]),
        ]
    ]


def evidence(**changes: Any) -> Evidence:
    """A posts to B by order of a client, one message fails, one is answered: all is well."""
    states = {A: STATE_A, B: STATE_B}
    inbox: list[Envelope] = [read(value) for value in (POSTED, FAILED, SENT)]
    good: dict[str, Any] = {
        "posts": [Post("c", A, 1, "m", True), Post("c", A, 1, "f", False)],
        "batches": journal(),
        "compacted": states,
        "live": states,
        "answers": states,
        "inboxes": {(0, 1): inbox},
        "letters": [letter(FAILED, 1)],
        "replies": [Reply("m", "r1", b"{}")],
        "accepted": [("w0", 0, 0, 2), ("w0", 0, 0, 3)],
    }
    return Evidence(**(good | changes))


def found(**changes: Any) -> set[str]:
    return {anomaly.name for anomaly in check(evidence(**changes))}


def changed(state: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return state | changes


def with_states(a: dict[str, Any], b: dict[str, Any], **more: Any) -> dict[str, Any]:
    states = {A: a, B: b}
    return {"batches": journal(a, b), "compacted": states, "live": states, "answers": states, **more}


def test_what_is_well_gives_nothing() -> None:
    assert check(evidence()) == []
    again = [*evidence().replies, Reply("m", "r1", b"{}")]
    assert found(replies=again, letters=[letter(FAILED, 1)] * 2) == set(), "stored twice, said once"


def test_lost() -> None:
    assert "lost" in found(**with_states(STATE_A, changed(STATE_B, handled=[])))
    assert "lost" in found(**with_states(changed(STATE_A, handled=[]), STATE_B)), "a client's message"


def test_lost_send() -> None:
    inbox = evidence().inboxes[0, 1][:2]
    assert "lost-send" in found(**with_states(STATE_A, changed(STATE_B, handled=[]), inboxes={(0, 1): inbox}))
    assert "lost-send" in found(inboxes={(0, 1): inbox}), "in the slot, not in the inbox"


def test_doubled() -> None:
    assert "doubled" in found(**with_states(STATE_A, changed(STATE_B, handled=STATE_B["handled"] * 2)))
    assert "doubled" in found(letters=[letter(FAILED, 1), letter(POSTED, 0)]), "handled and given up"


def test_ghost_send() -> None:
    other = seal(body_of(A, B, Do("m.0", 1, "n9", [["take", 5]])), 0, 1)
    assert "ghost-send" in found(**with_states(STATE_A, changed(STATE_B, handled=[[A, 1, "m.0", 1, "n9"]])))
    assert found(batches=journal(sent=other)) == {"ghost-send"}, "arrived, but the journal has another attempt"


def test_order_inversion() -> None:
    lines = {("client:c", A, 1): [("1", "1"), ("2", "2"), ("3", "3")]}
    turned = {("client:c", A, 1): [("1", "1"), ("3", "3"), ("2", "2")]}
    assert [anomaly.name for anomaly in checks.deliveries(lines, turned, {}, {})] == ["order-inversion"]
    assert list(checks.deliveries(lines, lines, {}, {})) == []
    gap = {("client:c", A, 1): [("1", "1"), ("3", "3")]}
    assert list(checks.deliveries(lines, gap, {("client:c", A, 1): [("2", "2")]}, {})) == []


def test_step_repeated() -> None:
    key = step_key(A, Place(1, 0), 0)

    def with_step(*results: str, went_on_with: str) -> dict[str, Any]:
        state = changed(STATE_A, results=[["m.1", went_on_with]])
        cells = [
            Batch(4 + i, 0, [(key, encode_cell(Step("step", "draw", b"", StepState.DONE, "", f'"{result}"'.encode())))])
            for i, result in enumerate(results)
        ]
        more = with_states(state, STATE_B)
        return more | {"batches": [[*more["batches"][0], *cells]]}

    assert found(**with_step("d1", "d1", went_on_with="d1")) == set()
    assert found(**with_step("d1", "d2", went_on_with="d2")) == {"step-repeated"}
    assert found(**with_step("d1", went_on_with="d2")) == {"step-repeated"}
    assert found(**with_states(changed(STATE_A, asked=[["m.1", "x"]]), STATE_B)) == {"reply-doubled"}


def test_stale_accepted() -> None:
    batches = [[Batch(0, 0, [(b"~claim", b"c")]), Batch(1, 1, [(b"~claim", b"c")]), Batch(2, 0, [(b"k", b"v")])]]
    assert [a.name for a in checks.writers(batches, [("w0", 0, 0, 2)])] == ["stale-accepted"]
    assert list(checks.writers(batches, [("w1", 0, 1, 1)])) == []


def test_split_writer() -> None:
    batches = [
        [Batch(0, 0, []), Batch(1, 1, [(b"~claim", b"c")]), Batch(2, 0, [(b"k", b"v")]), Batch(3, 1, [(b"k", b"w")])]
    ]
    assert [a.name for a in checks.writers(batches, [("w1", 0, 1, 3)])] == ["split-writer"]


def test_reply_lost() -> None:
    assert found(replies=[]) == {"reply-lost"}


def test_reply_doubled() -> None:
    assert found(replies=[Reply("m", "r1", b"{}"), Reply("m", "r2", b"{}")]) == {"reply-doubled"}
    assert found(replies=[Reply("m", "r1", b"{}"), Reply("x", "r2", b"{}")]) == {"reply-doubled"}, "nobody asked"


def test_dead_letter_mismatch() -> None:
    assert "dead-letter-mismatch" in found(letters=[])
    assert "dead-letter-mismatch" in found(letters=[letter(FAILED, 0)]), "the offset is that of another record"
    assert "dead-letter-mismatch" in found(letters=[letter(FAILED, 1), letter(POSTED, 0)]), "it should not have failed"
    other = letter(FAILED, 1)
    other.reason = "expired"
    assert found(letters=[letter(FAILED, 1), other]) == {"dead-letter-mismatch"}, "two stories of one message"


def test_state_divergence() -> None:
    poor = changed(STATE_B, count=1)
    for witness in ("compacted", "live", "answers"):
        assert found(**{witness: {A: STATE_A, B: poor}}) == {"state-divergence"}
    assert found(live={A: STATE_A}) == {"state-divergence"}, "an agent is gone"
    assert found(**with_states(STATE_A, poor)) == {"state-divergence"}, "not what its turns add up to"
    before, after = evidence(), dataclasses.replace(evidence(), answers={A: STATE_A, B: poor})
    assert {anomaly.name for anomaly in checks.unchanged(before, after)} == {"state-divergence"}
    assert list(checks.unchanged(before, evidence())) == []


def test_what_retention_deleted_is_excused_only_by_a_true_letter() -> None:
    states = with_states(STATE_A, changed(STATE_B, handled=[], balance=BALANCE))
    stretch = decode_dead_letter(encode_lost_stretch(LogTruncated("x.inbox.normal", 0, 2, 2, 1)))
    letters = [letter(FAILED, 1), stretch]
    assert found(**states, letters=letters, starts={(0, 1): 3}) == set()
    assert found(**states, letters=letters, starts={(0, 1): 2}) == {"lost", "conservation"}, "nothing was deleted there"
    assert found(**states, starts={(0, 1): 3}) == {"lost", "conservation"}, "nobody told of it"
    twice = with_states(STATE_A, changed(STATE_B, handled=STATE_B["handled"] * 2, balance=BALANCE + 10))
    assert found(**twice, letters=letters, starts={(0, 1): 3}) == set(), "sent again after its first copy was deleted"


def test_a_mortal_agent_begins_anew_only_after_a_stop() -> None:
    heard = [("Mortal/a", Heard("c", 1, f"m{i}", 1, "n", count)) for i, count in enumerate([1, 2, 1])]
    stop = Post("c", "Mortal/a", 1, "s", True, STOP)
    assert list(checks.lives(heard, [stop])) == []
    assert [a.name for a in checks.lives(heard, [])] == ["state-divergence"]
    assert [a.name for a in checks.lives([heard[0], heard[0]], [])] == ["state-divergence"]
    assert [a.name for a in checks.lives(heard[1:], [stop])] == ["state-divergence"], "it begins with 1"
    assert checks.heard_by(heard[:1]) == {("c", "Mortal/a", 1): [("m0", "n")]}


def test_what_comes_to_a_stopped_agent_is_given_up() -> None:
    value = seal(body_of("client:c", "Mortal/a", Do("x", 1, "x")))
    stored = MemoryRecord(0, b"Mortal/a", value, (), 0)
    given_up = decode_dead_letter(
        encode_dead_letter(
            stored, topic="x.inbox.normal", partition=0, envelope=decode(value), reason="agent-stopped", error="E"
        )
    )
    inboxes = {(0, 1): [read(value)]}
    assert checks.dead_letters([given_up], inboxes, {"Mortal/a"})[2] == {"x"}
    assert checks.dead_letters([given_up], inboxes)[2] == set(), "nobody stopped it"


def test_conservation() -> None:
    assert list(checks.conservation({A: STATE_A, B: STATE_B})) == []
    assert [a.name for a in checks.conservation({A: STATE_A})] == ["conservation"]


def test_the_fold_of_the_checks_leaves_stale_leases_out() -> None:
    batches = [Batch(0, 0, [(b"k", b"1")]), Batch(1, 1, [(b"l", b"2")]), Batch(2, 0, [(b"k", b"3")])]
    assert fold(batches) == {b"k": b"1", b"l": b"2"}
    assert fold([Batch(0, 0, [(b"k", b"1")]), Batch(1, 0, [(b"k", None)])]) == {}
