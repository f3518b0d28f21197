"""The journal read by its rules: leases by the offset of their claim, later records of earlier leases do not count."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tests.chaos.evidence import DOUBLED, SPLIT_WRITER, STALE_ACCEPTED, Anomaly, JournalRow
from tests.chaos.wire import (
    CELL_MARK,
    DONE,
    Damaged,
    Pos,
    read_agent,
    read_envelope,
    read_position,
    read_slot,
    read_step,
)

RETIRED = 1


@dataclass
class Journals:
    """What all partitions of the journal say together."""

    states: dict[str, dict[str, Any]] = field(default_factory=dict)  # agent -> declared state
    cells: dict[str, str] = field(default_factory=dict)  # cells that are left, with their place
    positions: dict[int, Pos] = field(default_factory=dict)
    sent: dict[str, str] = field(default_factory=dict)  # id of a committed message between agents -> its slot
    stale_sent: set[str] = field(default_factory=set)
    anomalies: list[Anomaly] = field(default_factory=list)
    claims: int = 0
    rows: int = 0
    holes: int = 0  # offsets that compaction took


def read_journals(rows: Iterable[JournalRow]) -> Journals:
    """Fold the rows, which come in offset order within each partition."""
    journals = Journals()
    highest: dict[int, int] = {}
    claimed: dict[int, int] = {}
    following: dict[int, int] = {}
    values: dict[tuple[int, bytes], bytes] = {}
    for row in rows:
        journals.rows += 1
        journals.holes += row.offset - following.get(row.partition, row.offset)
        following[row.partition] = row.offset + 1
        if row.lease is None:
            journals.claims += 1
            claimed[row.partition] = row.offset
        number = row.offset if row.lease is None else row.lease
        stale = number < highest.get(row.partition, -1)
        if number < claimed.get(row.partition, -1):
            why = f"lease {number} wrote at {row.offset}, after the claim at {claimed[row.partition]}"
            journals.anomalies.append(Anomaly(SPLIT_WRITER, f"journal {row.partition}", why))
        if row.key.startswith(b"~out/") and row.value is not None:
            _slot(journals, row, stale)
        if stale:
            continue
        highest[row.partition] = number
        if row.key == b"~pos" and row.value is not None:
            _position(journals, row)
        if b"\x1fstep/" in row.key and row.value is not None:
            _step(journals, row, values.get((row.partition, row.key)))
        if row.value is None:
            values.pop((row.partition, row.key), None)
        elif not row.key.startswith(b"~"):
            values[row.partition, row.key] = row.value
    _split(journals, values)
    return journals


def _split(journals: Journals, values: dict[tuple[int, bytes], bytes]) -> None:
    """Agents and cells, as the journal leaves them."""
    for (partition, key), value in values.items():
        if CELL_MARK in key:
            journals.cells[key.decode()] = f"journal {partition}"
            continue
        agent = read_agent(value)
        if not agent.flags & RETIRED:
            journals.states[key.decode()] = msgspec.msgpack.decode(agent.state)


def _step(journals: Journals, row: JournalRow, before: bytes | None) -> None:
    """A finished step stays as it is: what was done outside is not done again."""
    if before is None or read_step(before) != DONE or before == row.value:
        return
    step = row.key.decode().replace(CELL_MARK.decode(), " ")
    journals.anomalies.append(Anomaly(DOUBLED, step, f"it was finished, and again at {row.partition}@{row.offset}"))


def _slot(journals: Journals, row: JournalRow, stale: bool) -> None:
    slot = read_slot(row.value or b"")
    for (topic, _), messages in slot.messages.items():
        if ".inbox." not in topic:
            continue
        for _, value in messages:
            try:
                message = read_envelope(value)
            except Damaged:
                why = f"slot {slot.number} at {row.offset} holds bytes that are no envelope"
                journals.anomalies.append(Anomaly(STALE_ACCEPTED, f"journal {row.partition}", why))
                continue
            if stale:
                journals.stale_sent.add(message.id)
            else:
                journals.sent[message.id] = f"{row.partition}@{row.offset}"


def _position(journals: Journals, row: JournalRow) -> None:
    """A position never goes back: if it does, somebody wrote who did not know what was committed."""
    position, before = read_position(row.value or b""), journals.positions.get(row.partition)
    journals.positions[row.partition] = position
    if before is None:
        return
    back = [
        f"prefix of lane {lane} from {was.prefix} to {now.prefix}"
        for lane, (was, now) in enumerate(zip(before.lanes, position.lanes, strict=True))
        if now.prefix < was.prefix
    ]
    if position.next_sequence < before.next_sequence:
        back.append(f"next sequence from {before.next_sequence} to {position.next_sequence}")
    if position.sent_through < before.sent_through:
        back.append(f"sent-through from {before.sent_through} to {position.sent_through}")
    if back:
        why = f"the position at {row.offset} goes back: {', '.join(back)}"
        journals.anomalies.append(Anomaly(STALE_ACCEPTED, f"journal {row.partition}", why))
