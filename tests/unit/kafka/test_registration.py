"""What may run under one application id, and who is first when two come at once."""

import json
from dataclasses import replace

import pytest

from rookery.schemas.errors import OtherApplication, RookeryError, WrongTopic
from rookery.streams.kafka.registration import Registration, current, decode, extended, refusals

KNOWN = Registration(4, {"Plane": 1, "Airport": 0}, {"a.inbox.low": "aa", "a-journal-changelog": "bb"})


def refused(found: Registration) -> list[RookeryError]:
    return refusals("a", KNOWN, found)


def test_the_same_application_and_one_with_more_may_run() -> None:
    assert refused(KNOWN) == []
    more = replace(KNOWN, agents={"Plane": 2, "Airport": 0, "Carrier": 0})
    assert refused(more) == []
    assert extended(KNOWN, more).agents == {"Plane": 2, "Airport": 0, "Carrier": 0}
    assert refusals("a", extended(KNOWN, more), KNOWN), "an old worker could not handle the new type"


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (replace(KNOWN, agents={"Plane": 1}), "does not know: Airport"),
        (replace(KNOWN, agents={"Other": 0}), "does not know: Airport, Plane"),
        (replace(KNOWN, agents={"Plane": 0, "Airport": 0}), "states of Plane have version 1, this worker knows 0"),
        (replace(KNOWN, partitions=8), "it has 4 partitions .*export ROOKERY_PARTITIONS=4"),
    ],
)
def test_another_topology_is_refused_with_the_command_that_mends_it(found: Registration, words: str) -> None:
    (error,) = refused(found)
    assert isinstance(error, OtherApplication)
    with pytest.raises(OtherApplication, match=words):
        raise error


def test_a_topic_that_was_made_again_is_refused() -> None:
    (error,) = refused(replace(KNOWN, topics={**KNOWN.topics, "a-journal-changelog": "cc"}))
    assert isinstance(error, WrongTopic)
    assert error.topic == "a-journal-changelog"
    assert "topics accept" in error.command


def test_of_two_that_start_at_once_the_first_counts_and_an_operator_counts_always() -> None:
    other = replace(KNOWN, agents={"Other": 0})
    assert current("a", []) is None
    assert current("a", [KNOWN.encode(), other.encode()]) == KNOWN
    accepted = replace(other, accepted=True)
    assert current("a", [KNOWN.encode(), accepted.encode(), KNOWN.encode()]) == accepted


@pytest.mark.parametrize("value", [b"", b"{}", b"[]", json.dumps({"format": 2}).encode(), b'{"format": 1, "x": 1}'])
def test_a_record_of_a_newer_version_is_refused(value: bytes) -> None:
    assert decode("a", KNOWN.encode()) == KNOWN
    with pytest.raises(OtherApplication, match="can't be read"):
        decode("a", value)
