"""A fetch that leaves out partitions must not keep them waiting for records of the others."""

from types import SimpleNamespace
from typing import Any

from aiokafka import TopicPartition

from rookery.streams.kafka.prefetch import PARTLY_WAIT_MS, WAIT_MS, hasten

FULL, EMPTY = TopicPartition("inbox", 0), TopicPartition("inbox", 1)


class Fetcher:
    """What `hasten` touches of aiokafka's, whose signatures the self-test knows."""

    def __init__(self) -> None:
        self._records: dict[TopicPartition, object] = {}
        self._fetch_max_wait_ms = 1_500
        self._prefetch_backoff = 0.1

    def _get_actions_per_node(self, assignment: Any) -> int:
        return self._fetch_max_wait_ms


def asked(records: dict[TopicPartition, object], positions: dict[TopicPartition, bool]) -> int:
    """The wait that the next request asks for, in milliseconds."""
    fetcher = Fetcher()
    hasten(fetcher)
    fetcher._records = records
    assignment = SimpleNamespace(
        tps=set(positions), state_value=lambda tp: SimpleNamespace(has_valid_position=positions[tp])
    )
    return fetcher._get_actions_per_node(assignment)


def test_a_request_for_all_partitions_may_wait() -> None:
    assert asked({}, {FULL: True, EMPTY: True}) == WAIT_MS


def test_a_request_without_what_is_not_taken_yet_is_answered_soon() -> None:
    assert asked({FULL: object()}, {FULL: True, EMPTY: True}) == PARTLY_WAIT_MS


def test_a_request_without_what_is_being_recovered_is_answered_soon() -> None:
    assert asked({}, {FULL: False, EMPTY: True}) == PARTLY_WAIT_MS


def test_requests_for_many_partitions_are_not_made_all_the_time() -> None:
    many = {TopicPartition("inbox", number): True for number in range(576)}
    assert PARTLY_WAIT_MS < asked({FULL: object()}, many) < WAIT_MS
