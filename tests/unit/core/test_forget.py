"""Agents leave memory: who goes, who stays, and what a finalizer of the user's may do meanwhile."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from rookery.streams.core import loops
from rookery.streams.core.batch import Finished
from rookery.streams.core.ledger import Ledgers
from rookery.streams.core.mailbox import Directory, Item, Mailbox


class Kind:
    def __init__(self, *, has_passivate: bool) -> None:
        self.has_passivate, self.has_activate = has_passivate, False


PLAIN, HOOKED = Kind(has_passivate=False), Kind(has_passivate=True)


class Guest:
    """Calls something at its end."""

    def __init__(self, at_end: Callable[[], object] = lambda: None) -> None:
        self.at_end = at_end

    def __del__(self) -> None:
        self.at_end()


def house(count: int, kind: Kind = PLAIN) -> dict[str, Mailbox]:
    mailboxes = Directory()
    for number in range(count):
        mailbox = mailboxes[f"A/{number}"] = Mailbox(f"A/{number}", 0)
        mailbox.kind, mailbox.agent, mailbox.used_at = kind, Guest(), float(number)
    return mailboxes


def idlers(mailboxes: dict[str, Mailbox]) -> list[Mailbox]:
    (found,) = loops.idle([mailboxes], float("inf"), 0)
    return found


def test_only_those_that_pass_leave_with_the_commit_of_their_last_turn() -> None:
    mailboxes = house(8)
    for mailbox in mailboxes.values():
        mailbox.passing, mailbox.unsettled = True, 1
    mailboxes["A/0"].passing = False
    mailboxes["A/2"].unsettled = 2
    mailboxes["A/3"].lanes[1].append(Item(1, None, None))  # type: ignore[arg-type]
    mailboxes["A/4"].running = True
    mailboxes["A/7"].stopped = True
    gone = [mailboxes["A/1"], mailboxes["A/5"]]
    turns = [Finished(mailbox, 1, 0, None, ()) for mailbox in mailboxes.values()]
    stored = {mailbox.key for mailbox in mailboxes.values()} - {b"A/6"}
    loops.acknowledge(turns, Ledgers(), mailboxes, stored)
    assert list(mailboxes) == [f"A/{i}" for i in (0, 2, 3, 4, 6, 7)]
    assert all(mailbox.agent is not None for mailbox in mailboxes.values())
    assert [(mailbox.closed, mailbox.agent) for mailbox in gone] == [(True, None)] * 2


def test_idle_agents_are_forgotten_in_portions_and_those_in_use_stay() -> None:
    mailboxes = house(10)
    idle = idlers(mailboxes)
    mailboxes["A/1"].running = True
    mailboxes["A/2"].unsettled = 1
    mailboxes["A/3"].used_at = 11.0
    mailboxes["A/4"].closed = True
    forgotten = [mailboxes[f"A/{i}"] for i in (0, 5, 6, 7, 8, 9)]
    assert loops.forget(mailboxes, idle, 5, 10.0) is None
    assert (len(idle), list(mailboxes)) == (5, [f"A/{i}" for i in range(5)])
    assert loops.forget(mailboxes, idle, 0, 10.0) is None
    assert (idle, list(mailboxes)) == ([], [f"A/{i}" for i in range(1, 5)])
    assert all(mailbox.closed and mailbox.agent is None for mailbox in forgotten)
    assert all(mailbox.agent is not None for mailbox in mailboxes.values())


def test_an_agent_with_a_hook_is_given_back_to_have_it_called() -> None:
    mailboxes = house(3, HOOKED)
    mailboxes["A/1"].agent = None
    idle, found = idlers(mailboxes), []
    while (mailbox := loops.forget(mailboxes, idle, 0, 10.0)) is not None:
        assert not mailbox.closed
        assert mailbox.agent is not None
        found.append(mailbox.address)
    assert (found, sorted(mailboxes)) == (["A/2", "A/0"], ["A/0", "A/2"])


def test_the_longest_idle_go_first_whatever_their_partition() -> None:
    partitions = [house(4), house(4)]
    for mailbox in partitions[0].values():
        mailbox.used_at += 3.5
    addresses = [
        [[mailbox.address for mailbox in found] for found in loops.idle(partitions, before, excess)]
        for before, excess in [(-1.0, 5), (1.0, 1), (-1.0, -1), (-1.0, 9), (4.5, 0)]
    ]
    assert addresses == [
        [["A/0"], ["A/0", "A/1", "A/2", "A/3"]],
        [[], ["A/0", "A/1"]],
        [[], []],
        [["A/0", "A/1", "A/2", "A/3"], ["A/0", "A/1", "A/2", "A/3"]],
        [["A/0", "A/1"], ["A/0", "A/1", "A/2", "A/3"]],
    ]


@pytest.mark.parametrize("where", ["agent", "context", "weakref"])
@pytest.mark.parametrize("what", ["clear", "more", "close", "use", "empty"])
def test_a_finalizer_may_change_all_that_is_looked_at(where: str, what: str) -> None:
    mailboxes, references = house(50), list[Any]()
    idle = idlers(mailboxes)
    last = idle[-1]

    def at_end(*_: object) -> None:
        assert last.agent is None or where != "agent"
        if what == "clear":
            for address in list(mailboxes):
                del mailboxes[address]
        elif what == "more":
            for i in range(1_000):
                mailboxes[f"B/{i}"] = Mailbox(f"B/{i}", 0)
        elif what == "close":
            for mailbox in list(mailboxes.values()):
                mailbox.closed = True
        elif what == "use":
            last.running = True
        else:
            idle.clear()
        gc.collect()

    if where == "weakref":
        references.append(weakref.ref(last.agent, at_end))
    else:
        setattr(last, where, Guest(at_end))
    assert loops.forget(mailboxes, idle, 0, 100.0) is None
    assert idle == []
    kept = {
        "clear": set[str](), "more": {f"B/{i}" for i in range(1_000)}, "close": {f"A/{i}" for i in range(50)},
        "use": {"A/49"}, "empty": {f"A/{i}" for i in range(49)},
    }  # fmt: skip
    assert set(mailboxes) == kept[what]
    assert last.closed == (what != "use")


class Ring:
    """Garbage: only the collector ends it, and then it does something."""

    def __init__(self, at_end: Callable[[], object]) -> None:
        self.me, self.at_end = self, at_end

    def __del__(self) -> None:
        self.at_end()


def test_agents_come_and_go_while_the_collector_runs() -> None:
    mailboxes, expected, number = Directory(), dict[str, Mailbox](), 0

    def at_end() -> None:
        nonlocal number
        number += 1
        mailboxes[f"B/{number}"] = expected[f"B/{number}"] = Mailbox(f"B/{number}", 0)
        if number > 3:
            del mailboxes[f"B/{number - 3}"], expected[f"B/{number - 3}"]

    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for step in range(2_000):
            Ring(at_end)
            mailboxes[f"A/{step}"] = expected[f"A/{step}"] = Mailbox(f"A/{step}", 0)
            if step >= 90:
                del mailboxes[f"A/{step - 90}"], expected[f"A/{step - 90}"]
    finally:
        gc.set_threshold(*before)
    assert number > 1_000
    gc.collect()
    assert sorted(mailboxes) == sorted(expected)
    assert [mailboxes.get(address) for address in expected] == list(expected.values())


def test_agents_that_lead_back_to_where_they_are_kept_are_collected() -> None:
    mailboxes = house(9)
    gone = [weakref.ref(mailbox.agent) for mailbox in mailboxes.values()]
    for mailbox in mailboxes.values():
        mailbox.agent.at_end = mailboxes.values
        mailbox.agent.home = mailboxes
    del mailboxes, mailbox
    gc.collect()
    assert [reference() for reference in gone] == [None] * 9
