"""The census: what is in memory by agent type, and that outsiders can't invent types."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from rookery.streams.core.mailbox import Mailbox
from rookery.streams.engine.census import census


def mailbox(address: str, *, waiting: tuple[int, int, int] = (0, 0, 0), **slots: Any) -> Mailbox:
    made = Mailbox(address, 0)
    for lane, count in enumerate(waiting):
        made.lanes[lane].extend([None] * count)  # type: ignore[list-item] # messages are only counted
    for name, value in slots.items():
        setattr(made, name, value)
    return made


def test_agents_turns_and_messages_are_counted_by_type() -> None:
    plane = SimpleNamespace(name="Plane")
    assert census(
        [
            mailbox("Plane/a", kind=plane, running=True, waiting=(1, 0, 2)),
            mailbox("Plane/b", waiting=(0, 4, 0)),
            mailbox("Airport/JFK", waiting=(1, 1, 1)),
            mailbox("0123456789ab4def8123456789abcdef", kind=plane),
            mailbox("1123456789ab4def8123456789abcdef", kind_name="Plane"),
        ],
        {"Plane", "Airport"},
    ) == {
        "Plane": {"live": 4, "running": 1, "waiting": [1, 4, 2]},
        "Airport": {"live": 1, "running": 0, "waiting": [1, 1, 1]},
    }


def test_invented_types_are_one() -> None:
    boxes = [mailbox(f"Invented{number}/a", waiting=(0, 1, 0)) for number in range(100)]
    boxes.append(mailbox("2123456789ab4def8123456789abcdef"))  # its spawn has not come
    assert census(boxes, {"Plane"}) == {"unknown": {"live": 101, "running": 0, "waiting": [0, 100, 0]}}
