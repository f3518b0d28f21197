"""The compiled readers of addresses against their Python twins."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rookery.schemas import address, native
from rookery.schemas.errors import InvalidAddress

pytestmark = pytest.mark.compiled
_address: Any = native.load("rookery.schemas._address")

NAMES = st.from_regex(r"[A-Za-z_0-9.é]{0,6}", fullmatch=True)
KEYS = st.text(alphabet=st.sampled_from("aZ09/_-.\x00\x1f\x7f\x80é\ud800 "), max_size=6)


def outcome(parse: Any, text: object) -> object:
    try:
        return parse(text)
    except InvalidAddress as error:
        return str(error)


@given(st.text(max_size=20) | st.builds(lambda name, key: f"{name}/{key}", NAMES, KEYS))
@example("Type/" + "k" * address.KEY_BYTES_MAX)
@example("Type/" + "k" * (address.KEY_BYTES_MAX + 1))
@example("T" * address.TYPE_BYTES_MAX + "/k")
@example("T" * (address.TYPE_BYTES_MAX + 1) + "/k")
@example("a.b/c/d")
@example("a..b/c")
@example(".a/c")
@example("a./c")
@example("9a/c")
@example("a9._9/c")
@example("4f2b8c1d9e3a4b7c8d1e2f3a4b5c6d7e")
def test_an_address_is_read_as_by_the_twin(text: str) -> None:
    assert outcome(_address.parse, text) == outcome(address.parse_pure, text)


@given(st.binary(max_size=40) | st.text(alphabet="abcé/", max_size=20), st.integers(1, 1_000))
def test_a_key_has_the_partition_that_the_twin_says(key: bytes | str, partitions: int) -> None:
    assert _address.partition_of(key, partitions) == address.partition_of_pure(key, partitions)
    data = key.encode() if isinstance(key, str) else key
    assert _address.murmur2(data) == address.murmur2_pure(data)
