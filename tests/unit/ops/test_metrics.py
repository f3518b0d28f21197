"""Metrics: exact names and buckets, totals that add up, labels that stay few, and nothing that ever goes backwards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from rookery import Agent, handler
from rookery.ops import metrics as page
from rookery.ops.hot import SAMPLE
from rookery.ops.metrics import AGENT_BOUNDS, OTHER, TALKER_TURNS, TURN_BOUNDS, WINDOW_TURNS, Metrics
from rookery.streams.engine.engine import Engine
from rookery.testing import Kit, run

LOW, NORMAL, HIGH = 0, 1, 2
Labels = tuple[tuple[str, str], ...]

FULL: dict[str, Any] = {
    "commit_batches": 4,
    "committed_turns": 40,
    "commits": {"Plane": [(0, 0, 0.0), (4, 40, 0.5), (0, 0, 0.0)]},
    "lost_leases": 1,
    "refused_appends": 2,
    "recoveries": 3,
    "rebalances": 5,
    "late_replies": 6,
    "lost_records": 11,
    "standbys": {4: {"agents": 9, "lag": 14}, 5: {"agents": 9, "lag": None}},
    "recovery": {"partitions": 1, "left": 150, "rate": 10.0, "seconds_left": 15.0},
    "loop_late": 0.25,
    "stores": {"opened": 20, "damaged": 12, "too_old": 13},
    "retention_left": {1: 3600.0},
    "locks": {
        "acquired": 21,
        "wait_seconds": 2.5,
        "timeouts": 22,
        "lost": 23,
        "errors": 24,
        "held": 25,
        "waiting": 26,
        "down_seconds": 27.5,
    },
    "balance": {"weight": 0.75, "terms": {"cpu": 0.5, "mem": 0.25, "net": 1.0}, "failing": 1, "postponed": 3},
    "ready": 7,
    "pool": {"runners": 9, "idle": 1, "waiting": 7, "max": 1000},
    "failures": {"late_replies": 12, "retries": 13, "skipped": 14, "pauses": 15},
    "nats": {
        "told": 1,
        "asked": 2,
        "refused": 3,
        "dropped": 4,
        "given_back": 5,
        "published": 6,
        "requested": 7,
        "retries": 8,
        "dead_letters": 9,
        "reconnects": 10,
        "connected": 1,
        "in_flight": 11,
    },
    "shipping": {"shipped": 80, "retries": 8, "dropped_replies": 9, "destinations_busy": 1},
    "dead_letters": {"handler-failed": 2, "crc-mismatch": 1},
    "types": {"Plane": {"live": 3, "running": 1, "waiting": [10, 20, 30]}},
    "partitions": {
        0: {"phase": "running", "agents": 9, "live": 2, "window": [1, 2, 3], "finished": 0, "unsent_slots": 2},
        1: {"phase": "running", "agents": 9, "live": 1, "window": [10, 20, 30], "finished": 0, "unsent_slots": 1},
        2: {"phase": "recovering"},
    },
}


@dataclass
class Kind:
    name: str


@dataclass
class Mailbox:
    address: str
    kind: Kind | None


def plane(number: int | str) -> Mailbox:
    return Mailbox(f"Plane/{number}", Kind("Plane"))


def scrape(metrics: Metrics) -> dict[str, dict[Labels, float]]:
    """Samples by name and labels, read by the official parser; each series is there once."""
    body, content_type = metrics.exposition()
    assert content_type.startswith("text/plain; version=0.0.4")
    found: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(body.decode()):
        assert family.documentation
        for sample in family.samples:
            series = found.setdefault(sample.name, {})
            labels = tuple(sorted(sample.labels.items()))
            assert labels not in series
            series[labels] = sample.value
    return found


def by_agent(metrics: Metrics) -> dict[str, float]:
    return {labels[0][1]: value for labels, value in scrape(metrics)["agent_messages_received_total"].items()}


def observe(metrics: Metrics, mailbox: Mailbox, turns: int, lane: int = NORMAL) -> None:
    for _ in range(turns):
        metrics.observer(mailbox, lane, 0.25, False)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(100)


# --- the mission's metrics ------------------------------------------------------------------------------------------


def test_the_missions_metrics_have_exactly_their_names_labels_and_buckets(metrics: Metrics) -> None:
    for seconds in (0.05, 0.1, 0.100001, 0.5, 1.0, 1.5, 5.0, 400.0):  # a bound is in its bucket
        metrics.observer(plane("N1"), NORMAL, seconds, False)
    body = metrics.exposition()[0].decode().splitlines()
    assert [line for line in body if line.startswith("agent_") and 'agent_id="Plane/N1"' in line] == [
        'agent_messages_received_total{agent_id="Plane/N1"} 8.0',
        'agent_processing_time_bucket{agent_id="Plane/N1",le="0.1"} 2.0',
        'agent_processing_time_bucket{agent_id="Plane/N1",le="0.5"} 4.0',
        'agent_processing_time_bucket{agent_id="Plane/N1",le="1.0"} 5.0',
        'agent_processing_time_bucket{agent_id="Plane/N1",le="2.0"} 6.0',
        'agent_processing_time_bucket{agent_id="Plane/N1",le="5.0"} 7.0',
        'agent_processing_time_bucket{agent_id="Plane/N1",le="+Inf"} 8.0',
        'agent_processing_time_count{agent_id="Plane/N1"} 8.0',
        'agent_processing_time_sum{agent_id="Plane/N1"} 408.250001',
    ]
    assert "# TYPE agent_messages_received_total counter" in body
    assert "# TYPE agent_processing_time histogram" in body


def test_one_search_serves_both_histograms() -> None:
    assert set(AGENT_BOUNDS) <= set(TURN_BOUNDS)
    assert list(TURN_BOUNDS) == sorted(set(TURN_BOUNDS))


def test_a_small_fleet_sees_all_of_its_agents_from_the_first_message_on(metrics: Metrics) -> None:
    for number in range(50):
        observe(metrics, plane(number), number + 1)
    assert by_agent(metrics) == {f"Plane/{number}": number + 1 for number in range(50)} | {OTHER: 0}


def test_ten_thousand_agents_have_few_labels_and_exact_totals(metrics: Metrics) -> None:
    for _ in range(3):
        for number in range(10_000):
            observe(metrics, plane(number), 1)
        scrape(metrics)
    counts = by_agent(metrics)
    assert len(counts) == 51  # nobody of the second half talks more than the rest
    assert sum(counts.values()) == 30_000
    seconds = scrape(metrics)["agent_processing_time_sum"]
    assert sum(seconds.values()) == 7_500


def test_top_talkers_get_the_second_half_of_the_labels_and_no_more(metrics: Metrics) -> None:
    for number in range(1_000):
        observe(metrics, plane(number), 1)
    for number in range(200):
        observe(metrics, plane(f"busy-{number}"), TALKER_TURNS - 1)
    assert len(by_agent(metrics)) == 51
    for number in range(100):
        observe(metrics, plane(f"busy-{number}"), TALKER_TURNS)
    scrape(metrics)
    for number in range(200):
        observe(metrics, plane(f"busy-{number}"), TALKER_TURNS)
    counts = by_agent(metrics)
    assert len(counts) == 101
    assert sum(name.startswith("Plane/busy-") for name in counts) == 50
    assert all(int(name.removeprefix("Plane/busy-")) < 100 for name in counts if name.startswith("Plane/busy-"))
    assert sum(counts.values()) == 1_000 + 200 * (TALKER_TURNS - 1) + 300 * TALKER_TURNS


def test_the_busiest_come_first_when_labels_are_scarce() -> None:
    metrics = Metrics(2)
    observe(metrics, plane("first"), 1)
    observe(metrics, plane("busy"), TALKER_TURNS)
    observe(metrics, plane("busier"), TALKER_TURNS + 1)
    scrape(metrics)
    observe(metrics, plane("busier"), 7)
    assert by_agent(metrics) == {"Plane/first": 1, "Plane/busier": 7, OTHER: 2 * TALKER_TURNS + 1}


def test_a_talker_keeps_its_count_at_the_next_scrapes(metrics: Metrics) -> None:
    for number in range(50):
        observe(metrics, plane(number), 1)
    observe(metrics, plane("busy"), TALKER_TURNS)
    scrape(metrics)
    for count in (3, 6):
        observe(metrics, plane("busy"), 3)
        assert by_agent(metrics)["Plane/busy"] == count


def test_talk_of_long_ago_earns_no_label(metrics: Metrics) -> None:
    for number in range(50):
        observe(metrics, plane(number), 1)
    observe(metrics, plane("once-busy"), 10 * TALKER_TURNS)
    for number in range(WINDOW_TURNS):
        observe(metrics, plane(f"n{number}"), 1)
    assert len(by_agent(metrics)) == 51


def test_no_counter_ever_goes_backwards(metrics: Metrics) -> None:
    before: dict[str, dict[Labels, float]] = {}
    for number in range(20):
        for neighbour in range(150):
            observe(metrics, plane(neighbour), (neighbour * number) % 17, lane=neighbour % 3)
        now = scrape(metrics)
        for name, series in before.items():
            assert all(now[name][labels] >= value for labels, value in series.items()), name
        before = now
    assert len(by_agent(metrics)) == 101


def test_without_labels_everything_is_other() -> None:
    metrics = Metrics(0)
    observe(metrics, plane("N1"), 2 * TALKER_TURNS)
    scrape(metrics)
    observe(metrics, plane("N1"), 1)
    assert by_agent(metrics) == {OTHER: 2 * TALKER_TURNS + 1}


def test_any_address_makes_a_page_that_parses(metrics: Metrics) -> None:
    address = 'Plane/"\\ ü{}=,'
    observe(metrics, Mailbox(address, Kind("Plane")), 1)
    assert by_agent(metrics)[address] == 1


# --- by type and priority -------------------------------------------------------------------------------------------


def test_turns_are_counted_by_type_and_priority(metrics: Metrics) -> None:
    metrics.observer(plane("N1"), LOW, 0.00005, False)
    metrics.observer(plane("N1"), HIGH, 0.0003, True)
    metrics.observer(Mailbox("Plane/N2", None), HIGH, 1000.0, True)
    found = scrape(metrics)

    def labels(agent_type: str, priority: str) -> Labels:
        return ("agent_type", agent_type), ("priority", priority)

    turns, failed = found["rookery_turns_total"], found["rookery_failed_turns_total"]
    assert {key: value for key, value in turns.items() if value} == {
        labels("Plane", "low"): 1,
        labels("Plane", "high"): 1,
        labels("unknown", "high"): 1,
    }
    assert {key: value for key, value in failed.items() if value} == {
        labels("Plane", "high"): 1,
        labels("unknown", "high"): 1,
    }
    buckets = found["rookery_turn_seconds_bucket"]
    assert len(buckets) == 2 * 3 * (len(TURN_BOUNDS) + 1)
    assert buckets[("agent_type", "Plane"), ("le", "0.0001"), ("priority", "low")] == 1
    assert buckets[("agent_type", "Plane"), ("le", "0.00025"), ("priority", "high")] == 0
    assert buckets[("agent_type", "Plane"), ("le", "0.0005"), ("priority", "high")] == 1
    assert buckets[("agent_type", "unknown"), ("le", "300.0"), ("priority", "high")] == 0
    assert buckets[("agent_type", "unknown"), ("le", "+Inf"), ("priority", "high")] == 1
    assert sum(found["rookery_turn_seconds_sum"].values()) == pytest.approx(1000.00035)


# --- from statistics ------------------------------------------------------------------------------------------------


def test_every_number_of_the_statistics_is_on_the_page(metrics: Metrics) -> None:
    metrics.attach(lambda: FULL)
    found = scrape(metrics)

    def plain(name: str) -> float:
        return found[name][()]

    assert [plain(f"rookery_{name}_total") for name in ("lost_leases", "refused_appends", "recoveries")] == [1, 2, 3]
    assert [plain(f"rookery_{name}_total") for name in ("rebalances", "late_replies", "lost_records")] == [5, 6, 11]
    assert found["rookery_inbox_retention_left_seconds"] == {(("priority", "normal"),): 3600}
    assert [plain(f"rookery_{name}") for name in ("ready_agents", "concurrency_max", "loop_late_seconds")] == [
        7,
        1000,
        0.25,
    ]
    names = ("sent_messages", "send_retries", "dropped_replies")
    assert [plain(f"rookery_{name}_total") for name in names] == [80, 8, 9]
    of_planes = (("agent_type", "Plane"), ("priority", "normal"))
    assert found["rookery_commit_batch_turns_count"] == {of_planes: 4}
    assert found["rookery_commit_batch_turns_sum"] == {of_planes: 40}
    assert found["rookery_commit_age_seconds_sum"] == {of_planes: 0.5}
    assert plain("rookery_outbox_unsent_batches") == 3
    failures = ("late_agent_replies", "turn_retries", "skipped_messages", "agent_pauses")
    assert [plain(f"rookery_{name}_total") for name in failures] == [12, 13, 14, 15]
    assert plain("rookery_turns_waiting") == 7
    names = ("lock_timeouts", "lost_locks", "redis_errors")
    assert [plain(f"rookery_{name}_total") for name in names] == [22, 23, 24]
    names = ("held_locks", "waiting_locks", "redis_down_seconds")
    assert [plain(f"rookery_{name}") for name in names] == [25, 26, 27.5]
    assert (plain("rookery_lock_wait_seconds_count"), plain("rookery_lock_wait_seconds_sum")) == (21, 2.5)
    terms = ("free_cpu_ratio", "free_memory_ratio", "free_network_ratio")
    assert [plain(f"rookery_{name}") for name in ("weight", *terms)] == [0.75, 0.5, 0.25, 1.0]
    assert [plain(f"rookery_{name}") for name in ("failing_weight_sources", "postponed_moves")] == [1, 3]
    assert found["rookery_dead_letters_total"] == {
        (("reason", "handler-failed"),): 2,
        (("reason", "crc-mismatch"),): 1,
    }
    assert [plain(f"rookery_{name}_stores_total") for name in ("damaged", "outdated")] == [12, 13]
    assert found["rookery_standby_lag"] == {(("partition", "4"),): 14}
    assert (plain("rookery_recovery_offsets_left"), plain("rookery_recovery_seconds_left")) == (150, 15.0)
    assert found["rookery_partitions"] == {(("phase", "running"),): 2, (("phase", "recovering"),): 1}
    assert [found["rookery_backlog_messages"][("priority", name),] for name in page.PRIORITIES] == [11, 22, 33]
    assert found["rookery_live_agents"] == {(("agent_type", "Plane"),): 3}
    assert found["rookery_turns_in_flight"] == {(("agent_type", "Plane"),): 1}
    waiting = found["rookery_waiting_messages"]
    assert [waiting[("agent_type", "Plane"), ("priority", name)] for name in page.PRIORITIES] == [10, 20, 30]


def test_sources_add_up_and_what_none_has_is_left_out(metrics: Metrics) -> None:
    numbers = {"late_replies": 1}
    metrics.attach(lambda: {"rebalances": 2})
    metrics.attach(lambda: numbers)
    assert scrape(metrics)["rookery_late_replies_total"] == {(): 1}
    numbers["late_replies"] = 4  # read at each scrape
    found = scrape(metrics)
    assert (found["rookery_rebalances_total"][()], found["rookery_late_replies_total"][()]) == (2, 4)
    assert "rookery_lost_leases_total" not in found
    assert "rookery_commit_age_seconds_count" not in found


def definitions() -> Iterator[str]:
    for value in vars(page).values():
        for entry in value if isinstance(value, tuple) and value and isinstance(value[0], tuple) else [value]:
            if isinstance(entry, tuple) and entry and isinstance(entry[0], str) and "_" in entry[0]:
                yield entry[0]


def test_the_page_lists_each_metric_once_and_shows_nothing_else(metrics: Metrics) -> None:
    metrics.attach(lambda: FULL)
    shown = {family.name for family in metrics.collect()}
    assert sorted(definitions()) == sorted(shown)


def test_the_engine_feeds_the_page(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    class Picky(Agent):
        @handler("ok")
        async def accept(self, message: Any) -> None:
            pass

        @handler("bad")
        async def fail(self, message: Any) -> None:
            raise ValueError("no")

    async def main() -> dict[str, dict[Labels, float]]:
        async with Kit(Picky) as kit:
            metrics.attach(lambda: kit.statistics()[0])
            agent = kit.manager.get_agent("Picky/a")
            for kind in ("ok", "ok", "bad"):
                await agent.tell({"type": kind})
            return scrape(metrics)

    monkeypatch.setattr("rookery.testing.Engine", partial(Engine, observe=metrics.observer))
    found = run(main())
    assert found["agent_messages_received_total"][("agent_id", "Picky/a"),] == 3
    assert sum(found["rookery_failed_turns_total"].values()) == 1
    assert found["rookery_dead_letters_total"] == {(("reason", "handler-failed"),): 1}
    assert found["rookery_commit_batch_turns_sum"] == {(("agent_type", "Picky"), ("priority", "normal")): 3}
    assert found["rookery_recoveries_total"][()] == sum(found["rookery_partitions"].values()) > 0
    assert found["rookery_sent_messages_total"][()] == 1
    assert set(found["rookery_backlog_messages"].values()) == {0}


def test_short_turns_are_sampled_and_long_ones_all() -> None:
    metrics = Metrics(0)
    for _ in range(SAMPLE * 10):
        metrics.observer(plane("N1"), LOW, 0.00001, False)
    metrics.observer(plane("N2"), LOW, 30.0, False)
    assert metrics.sampled() == [("Plane/N1", 0.00001, SAMPLE)] * 10 + [("Plane/N2", 30.0, 1)]
    assert metrics.sampled() == []
