import random
import uuid

import pytest
from aiokafka.partitioner import DefaultPartitioner

from rookery.schemas.address import check, client_address, murmur2, parse, parse_client, partition_of
from rookery.schemas.errors import InvalidAddress, RookeryError


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("Plane/N14228", ("Plane", "N14228")),
        ("shop.orders.Order/7", ("shop.orders.Order", "7")),
        ("A/b/c", ("A", "b/c")),
        ("A/ ", ("A", " ")),
        ("Zürich/Straße", ("Zürich", "Straße")),
        ("A/" + "k" * 200, ("A", "k" * 200)),
    ],
)
def test_types_and_keys(address: str, parts: tuple[str, str]) -> None:
    assert parse(address) == parts
    assert check(address) == address


def test_spawned() -> None:
    address = uuid.uuid4().hex
    assert parse(address) == (None, address)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("", "no `/`"),
        ("Plane", "no `/`"),
        ("client:desk", "no `/`"),
        ("F8E876730ED54F798A6FBBA4518DA12C", "no `/`"),
        ("1dbebd78e94311f1b83202fc00000001", "no `/`"),
        ("6c3c63841f4540978aeb08b94d498b59\n", "no `/`"),
        ("/key", "no class name"),
        ("my plane/1", "no class name"),
        ("a..b/1", "no class name"),
        ("~pos/1", "no class name"),
        ("Plane/", "empty"),
        ("Plane/a\nb", "control"),
        ("Plane/a\x1fb", "control"),
        ("Plane/a\x85", "control"),
        ("Plane/\ud800", "UTF-8"),
        ("Plane/" + "k" * 201, "201 bytes"),
        ("Plane/" + "ß" * 101, "202 bytes"),
        ("P" * 201 + "/k", "201 and 1 bytes"),
    ],
)
def test_what_is_no_address(address: str, why: str) -> None:
    with pytest.raises(InvalidAddress, match=why) as caught:
        check(address)
    assert isinstance(caught.value, RookeryError)
    assert caught.value.address == address


def test_what_is_no_string() -> None:
    with pytest.raises(InvalidAddress, match="a int, not a string"):
        check(7)  # type: ignore[arg-type]


def test_clients() -> None:
    assert parse_client(client_address("desk-7.a_b")) == ("client", "desk-7.a_b")
    assert parse_client(client_address("x", "json")) == ("json", "x")
    for name in ("", "Plane/1", "client:", "client:a/b", "client:a\n", "other:a", "client:" + "n" * 101):
        assert parse_client(name) is None
    with pytest.raises(InvalidAddress, match="client"):
        client_address("a/b")


def test_partitions_are_those_of_every_kafka_client() -> None:
    rng, theirs = random.Random(7), DefaultPartitioner()
    for size in [*range(64), 200, 1_000]:
        key = rng.randbytes(size)
        for partitions in (1, 3, 12, 500):
            every = list(range(partitions))
            assert partition_of(key, partitions) == theirs(key, every, every)


def test_known_hashes() -> None:
    """From the tests of Kafka's own client, in unsigned form."""
    known = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536, b"abc": 479470107}
    assert {key: murmur2(key) for key in known} == {key: value % 2**32 for key, value in known.items()}


def test_a_key_is_the_same_as_text_and_as_bytes() -> None:
    assert partition_of("Zürich/1", 12) == partition_of("Zürich/1".encode(), 12)
