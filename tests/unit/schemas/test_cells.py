"""Cells of the journal: keys that sort and can be taken apart, values that say when they are damaged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rookery.schemas.cells import (
    Cell,
    CellName,
    Parked,
    Pause,
    Place,
    Step,
    StepState,
    decode_cell,
    encode_cell,
    parked_key,
    pause_key,
    read_name,
    step_key,
)
from rookery.schemas.journal import KeyKind, split_key
from rookery.schemas.partition_errors import JournalError

places = st.builds(Place, st.integers(0, 2), st.integers(0, 2**62))
texts = st.text(max_size=20)
steps = st.builds(
    Step,
    texts,
    texts,
    st.binary(max_size=16),
    st.sampled_from(StepState),
    texts,
    st.binary(max_size=50),
    texts,
    texts,
    texts,
)
parked = st.builds(
    Parked,
    st.none() | st.binary(max_size=20),
    st.none() | st.binary(max_size=50),
    st.lists(st.tuples(texts, st.none() | st.binary(max_size=9)), max_size=3),
    st.integers(-1, 2**40),
    st.integers(0, 99),
    st.integers(0, 2**62),
    st.booleans(),
)


@given(steps | parked | st.builds(Pause, texts, st.integers(0, 2**62)))
def test_a_cell_comes_back_as_it_was(cell: Cell) -> None:
    assert decode_cell(encode_cell(cell), type(cell)) == cell


@given(places, st.integers(0, 499))
def test_a_key_can_be_taken_apart(place: Place, number: int) -> None:
    for key, name in (
        (parked_key("Type/a/b", place), CellName(Parked, place)),
        (step_key("Type/a/b", place, number), CellName(Step, place, number)),
        (pause_key("Type/a/b"), CellName(Pause)),
    ):
        kind, address, cell = split_key(key)
        assert (kind, address, read_name(cell)) == (KeyKind.CELL, "Type/a/b", name)


@given(st.lists(st.integers(0, 2**62), max_size=20))
def test_keys_sort_in_the_order_of_arrival(offsets: list[int]) -> None:
    keys = [parked_key("a/b", Place(1, offset)) for offset in sorted(offsets)]
    assert sorted(keys) == keys


def test_cells_of_a_newer_version_are_left_alone_and_damaged_ones_are_not() -> None:
    assert read_name("item/3") == CellName(None)
    for name in ("parked/1", "parked/x/1", "step/1/2", "step/1/2/3/4"):
        with pytest.raises(JournalError, match="damaged cell name"):
            read_name(name)
    value = encode_cell(Pause("why", 1))
    for damaged in (b"", b"\x02" + value[1:], value[:-1], b"\x01\xc1", encode_cell(Parked(None, None, [], 0))):
        with pytest.raises(JournalError):
            decode_cell(damaged, Pause)
