"""The window of a lane counts what is fetched and not done, in bytes and by age."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rookery.streams.core.window import Window


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(0, 1_000)), max_size=30),
    st.lists(st.floats(0, 1), max_size=10),
)
def test_it_counts_every_fetch_that_has_unfinished_records(fetches: list[tuple[int, int]], marks: list[float]) -> None:
    window, end, model = Window(), 0, []
    for count, size in fetches:
        window.add(end, 1_000 + end, size)
        model.append((end, end + count, size))
        end += count
    for mark in sorted(marks):
        prefix = round(mark * end)
        window.forget(prefix, end)
        left = [(first, size) for first, last, size in model if last > prefix]
        assert window.bytes_count == sum(size for _, size in left)
        assert window.oldest == (1_000 + left[0][0] if left else 0)
