"""Every metric of a worker, on one page.

A turn only bumps slots, in `Metrics.observer`, whose compiled twin is `_observe.pyx`; everything else is read from the
statistics of the engine and built when somebody scrapes. Turns and scrapes share one event loop, so nothing is locked.
All numbers are of this process, since it started.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, cycle
from typing import Any, Final, Protocol

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)

from rookery.ops.hot import SAMPLE, Turn
from rookery.schemas import native
from rookery.schemas.envelope import Priority

Statistics = Mapping[str, Any]

# --- the page: what there is ----------------------------------------------------------------------------------------

PRIORITIES: Final = tuple(priority.name.lower() for priority in Priority)
"""Label of each lane, by its number."""

# Upper bounds in seconds, inclusive. AGENT_BOUNDS must all be in TURN_BOUNDS: one search serves both histograms.
AGENT_BOUNDS: Final = (0.1, 0.5, 1.0, 2.0, 5.0)
TURN_BOUNDS: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0),
)

OTHER: Final = "other"
"""agent_id of all agents without a label of their own; no address looks like it."""
UNKNOWN: Final = "unknown"
"""agent_type of turns that failed before an agent was made."""

# From turns.
RECEIVED: Final = ("agent_messages_received", "Messages that an agent received and whose turn ended", ["agent_id"])
PROCESSING: Final = ("agent_processing_time", "Seconds that an agent's turns took", ["agent_id"])
_BY_TYPE: Final = ["agent_type", "priority"]
TURNS: Final = ("rookery_turns", "Turns that ended, failed ones included", _BY_TYPE)
FAILED: Final = ("rookery_failed_turns", "Turns that ended in an error, with no attempt left", _BY_TYPE)
TURN_SECONDS: Final = ("rookery_turn_seconds", "Seconds that turns took, waiting inside handlers included", _BY_TYPE)

# From statistics["types"], by agent type: {"live": n, "running": n, "waiting": [low, normal, high]}.
LIVE: Final = ("rookery_live_agents", "Agents in memory", ["agent_type"])
RUNNING: Final = ("rookery_turns_in_flight", "Turns that run now", ["agent_type"])
WAITING: Final = ("rookery_waiting_messages", "Messages in mailboxes whose turn has not begun", _BY_TYPE)

# From statistics["commits"], by agent type and lane: (batches with such turns, the turns, the batches' seconds).
BATCH_TURNS: Final = ("rookery_commit_batch_turns", "Turns in a commit batch that has such turns", _BY_TYPE)
COMMIT_AGE: Final = (
    "rookery_commit_age_seconds",
    "Seconds from building a commit batch to its acknowledgement",
    _BY_TYPE,
)

# From statistics["partitions"] and statistics["dead_letters"].
BACKLOG: Final = ("rookery_backlog_messages", "Messages fetched and above the first one not committed", ["priority"])
OWNED: Final = ("rookery_partitions", "Partitions that this worker owns, by what it does with them", ["phase"])
UNSENT: Final = ("rookery_outbox_unsent_batches", "Committed batches whose messages are not all sent")
STANDBY_LAG: Final = ("rookery_standby_lag", "Offsets by which the copy of a partition lags its journal", ["partition"])
DEAD_LETTERS: Final = ("rookery_dead_letters", "Messages given up, by reason", ["reason"])
# From statistics["retention_left"], by lane; a priority without a backlog has none.
RETENTION: Final = (
    "rookery_inbox_retention_left_seconds",
    "Seconds until the inbox may delete its oldest unhandled record",
    ["priority"],
)

# Single numbers: name, help, and where statistics has them (dots go into a part).
COUNTERS: Final = (
    ("rookery_lost_leases", "Journal leases lost or given back: the partition is recovered anew", "lost_leases"),
    ("rookery_refused_appends", "Journal appends that the broker refused: another owner is at work", "refused_appends"),
    ("rookery_recoveries", "Partitions recovered from their journals", "recoveries"),
    ("rookery_rebalances", "Assignments of partitions that this worker was given", "rebalances"),
    ("rookery_sent_messages", "Messages of committed turns that the log acknowledged", "shipping.shipped"),
    ("rookery_send_retries", "Batches of messages that had to be sent again", "shipping.retries"),
    ("rookery_dropped_replies", "Replies whose client had gone", "shipping.dropped_replies"),
    ("rookery_lost_records", "Records that an inbox deleted before they were handled", "lost_records"),
    ("rookery_damaged_stores", "Local stores put aside as damaged and built anew from the journal", "stores.damaged"),
    ("rookery_outdated_stores", "Local stores removed as too old and built anew from the journal", "stores.too_old"),
    ("rookery_late_replies", "Replies that came after their ask had timed out", "late_replies"),
    ("rookery_lock_timeouts", "Locks and permits that were not free in time", "locks.timeouts"),
    ("rookery_lost_locks", "Locks and permits that may have been lost while they were held", "locks.lost"),
    ("rookery_redis_errors", "Commands that Redis did not answer or refused", "locks.errors"),
    ("rookery_late_agent_replies", "Replies to agents whose ask was over", "failures.late_replies"),
    ("rookery_turn_retries", "Turns that failed and are tried again after a back-off", "failures.retries"),
    (
        "rookery_skipped_messages",
        "Messages left alone, as agent class or handler say",
        "failures.skipped",
    ),
    ("rookery_agent_pauses", "Times that an agent was paused", "failures.pauses"),
    # Of the NATS edge, which is a process of its own and has no others.
    ("rookery_nats_told", "Messages from NATS that Kafka has, those of the stream too", "nats.told"),
    ("rookery_nats_asked", "Requests from NATS that an agent answered", "nats.asked"),
    ("rookery_nats_refused", "Messages from NATS that were answered or put aside with a typed error", "nats.refused"),
    ("rookery_nats_dropped", "Messages from NATS lost: no reply subject, no stream, and no way on", "nats.dropped"),
    (
        "rookery_nats_given_back",
        "Stream messages given back to the stream since Kafka did not answer",
        "nats.given_back",
    ),
    ("rookery_nats_published", "Messages of agents that NATS has", "nats.published"),
    ("rookery_nats_requested", "Asks of agents that NATS answered", "nats.requested"),
    ("rookery_nats_retries", "Attempts to publish or answer that failed and are repeated", "nats.retries"),
    ("rookery_nats_dead_letters", "Messages of agents and of the stream put aside", "nats.dead_letters"),
    ("rookery_nats_reconnects", "Connections to NATS made again", "nats.reconnects"),
)
GAUGES: Final = (
    ("rookery_recovery_offsets_left", "Offsets of journals that recoveries have still to read", "recovery.left"),
    ("rookery_recovery_seconds_left", "Seconds until they have, at the present rate", "recovery.seconds_left"),
    ("rookery_ready_agents", "Entries of the run queue: agents with work, once per priority", "ready"),
    ("rookery_weight", "Weight of this worker in force: partitions are shared out in proportion", "balance.weight"),
    ("rookery_free_cpu_ratio", "Free share of the processor, smoothed", "balance.terms.cpu"),
    ("rookery_free_memory_ratio", "Free share of memory, smoothed", "balance.terms.mem"),
    ("rookery_free_network_ratio", "Free share of the network's bandwidth, smoothed", "balance.terms.net"),
    ("rookery_failing_weight_sources", "Sources of the weight that fail and count as average", "balance.failing"),
    ("rookery_postponed_moves", "Partitions that this worker gives away a little later", "balance.postponed"),
    ("rookery_held_locks", "Locks and permits held", "locks.held"),
    ("rookery_waiting_locks", "Waiters for locks and permits", "locks.waiting"),
    ("rookery_redis_down_seconds", "Seconds since Redis answered last, 0 while it does", "locks.down_seconds"),
    ("rookery_loop_late_seconds", "Most seconds that the event loop was stuck since the last scrape", "loop_late"),
    ("rookery_concurrency_max", "Turns that may run at once", "pool.max"),
    ("rookery_turns_waiting", "Turns that wait in a step or an ask, without a slot", "pool.waiting"),
    ("rookery_nats_connected", "1 while the edge is connected to NATS", "nats.connected"),
    ("rookery_nats_in_flight", "Messages and asks in the edge's hands, both ways", "nats.in_flight"),
)
# Name, help, where the count stands, where the sum.
SUMMARIES: Final = (
    ("rookery_lock_wait_seconds", "Seconds waited for locks and permits", "locks.acquired", "locks.wait_seconds"),
)

# --- counting turns -------------------------------------------------------------------------------------------------

# Slots of a series: a count per bucket (the last without upper bound), then these.
_SUM: Final = len(TURN_BOUNDS) + 1
_FAILED: Final = _SUM + 1

# An agent without label is a top talker when it took TALKER_TURNS of the last WINDOW_TURNS turns of such agents: a
# share of 1/200. The window is exact: 80 kB of references, counted in about a millisecond per scrape.
WINDOW_TURNS: Final = 10_000
# Of a sample that nobody takes only so many turns are kept.
SAMPLE_MAX: Final = 10_000
TALKER_TURNS: Final = 50


class ObservedKind(Protocol):
    """The agent type of a mailbox."""

    name: str


class ObservedMailbox(Protocol):
    """What the observer reads of a mailbox; `kind` is an `ObservedKind`, or None if the agent was never made."""

    address: str
    kind: Any


TurnObserver = Callable[[ObservedMailbox, int, float, bool], None]
"""`observer(mailbox, lane, seconds, failed)`, once per turn; `lane` is 0, 1 or 2."""


def _slots() -> list[float]:
    return [0] * _SUM + [0.0, 0]


def _latest(room: int) -> deque[str]:
    return deque(maxlen=room)


if (_compiled := native.load("rookery.ops._observe")) is not None:
    _compiled.learn(TURN_BOUNDS, SAMPLE, UNKNOWN)
    _slots, _latest = _compiled.Slots, _compiled.Latest  # read like the list, and like the deque


class _Agents:
    """Slots by agent: `labelled` by address, `other` for all the rest together.

    A label is never taken back, so no counter ever goes backwards: an agent that gets one starts at zero, what it did
    before stays in `other`. The first half of the labels goes to the first that come (a small fleet sees all of its
    agents), the second half, at scrapes, to top talkers.
    """

    def __init__(self, labels_max: int) -> None:
        self.labelled: dict[str, list[float]] = {}
        self.other = _slots()
        self.first_max = (labels_max + 1) // 2
        self.strangers = _latest(WINDOW_TURNS)  # the addresses behind the last turns of `other`
        self._labels_max = labels_max

    def promote(self) -> None:
        """Give free labels to the top talkers among the strangers."""
        free = self._labels_max - len(self.labelled)
        if free <= 0:
            return
        counts = [(turns, address) for address, turns in Counter(self.strangers).items() if turns >= TALKER_TURNS]
        talkers = [address for _, address in sorted(counts, reverse=True) if address not in self.labelled]
        self.labelled.update((address, _slots()) for address in talkers[:free])


class _Types(dict[str, tuple[list[float], ...]]):
    """Slots by agent type, then by lane; their number is that of the classes in the code."""

    def __missing__(self, name: str) -> tuple[list[float], ...]:
        self[name] = lanes = tuple(_slots() for _ in PRIORITIES)
        return lanes


class Metrics:
    """The metrics of one worker; at most `agents_max` agents have an `agent_id` of their own, the rest is `other`."""

    def __init__(self, agents_max: int) -> None:
        self._agents = _Agents(agents_max)
        self._types = _Types()
        self._sources: list[Callable[[], Statistics]] = []
        self._sample: deque[Turn] = deque(maxlen=SAMPLE_MAX)
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self.observer: TurnObserver
        if _compiled is None:
            self.observer = self._make_observer()
        else:
            self.observer = _compiled.TurnObserver(self._agents, self._types, self._sample.append)

    def _make_observer(self) -> TurnObserver:
        # A closure, since looking its parts up through `self` takes time; so does a search where most turns end.
        agents, types, first, bounds = self._agents, self._types, TURN_BOUNDS[0], TURN_BOUNDS
        labelled, other, first_max, remember = agents.labelled, agents.other, agents.first_max, agents.strangers.append

        rest, take = cycle(range(SAMPLE)).__next__, self._sample.append

        def observe(mailbox: ObservedMailbox, lane: int, seconds: float, failed: bool) -> None:
            bucket = 0 if seconds <= first else bisect_left(bounds, seconds)
            address = mailbox.address
            if bucket:
                take((address, seconds, 1))
            elif not rest():
                take((address, seconds, SAMPLE))
            slots = labelled.get(address)
            if slots is None:
                if len(labelled) < first_max:
                    slots = labelled[address] = _slots()
                else:
                    slots = other
                    remember(address)
            slots[bucket] += 1
            slots[_SUM] += seconds
            kind = mailbox.kind
            slots = types[UNKNOWN if kind is None else kind.name][lane]
            slots[bucket] += 1
            slots[_SUM] += seconds
            if failed:
                slots[_FAILED] += 1

        return observe

    def sampled(self) -> list[Turn]:
        """The sample of turns since the last call, for `Load`."""
        sample = list(self._sample)
        self._sample.clear()
        return sample

    def attach(self, statistics: Callable[[], Statistics]) -> None:
        """Read `statistics()` at each scrape, besides those attached before; of equal keys the last one counts."""
        self._sources.append(statistics)

    def exposition(self) -> tuple[bytes, str]:
        """All metrics in Prometheus' text format, and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4

    def collect(self) -> Iterable[Metric]:
        """All metrics as prometheus-client's objects. A number that no source has is left out."""
        self._agents.promote()
        yield from _of_agents({**self._agents.labelled, OTHER: self._agents.other})
        yield from _of_turns(self._types)
        statistics: dict[str, Any] = {}
        for source in self._sources:
            statistics.update(source())
        yield from _of_types(statistics.get("types", {}))
        yield from _of_commits(statistics.get("commits", {}))
        yield from _of_partitions(statistics.get("partitions", {}))
        lag = GaugeMetricFamily(STANDBY_LAG[0], STANDBY_LAG[1], labels=STANDBY_LAG[2])
        for number, copy in statistics.get("standbys", {}).items():
            if copy["lag"] is not None:
                lag.add_metric([str(number)], copy["lag"])
        yield lag
        dead_letters = CounterMetricFamily(DEAD_LETTERS[0], DEAD_LETTERS[1], labels=DEAD_LETTERS[2])
        for reason, count in sorted(statistics.get("dead_letters", {}).items()):
            dead_letters.add_metric([reason], count)
        yield dead_letters
        retention = GaugeMetricFamily(RETENTION[0], RETENTION[1], labels=RETENTION[2])
        for lane, seconds in sorted(statistics.get("retention_left", {}).items()):
            retention.add_metric([PRIORITIES[lane]], seconds)
        yield retention
        yield from _single_numbers(statistics)


# --- building what is scraped ---------------------------------------------------------------------------------------


def _histogram(family: HistogramMetricFamily, labels: list[str], bounds: Iterable[float], slots: list[float]) -> None:
    below = list(accumulate(slots[:_SUM]))
    buckets = [(str(bound), below[TURN_BOUNDS.index(bound)]) for bound in bounds]
    family.add_metric(labels, [*buckets, ("+Inf", below[-1])], slots[_SUM])


def _of_agents(agents: Mapping[str, list[float]]) -> Iterator[Metric]:
    received = CounterMetricFamily(RECEIVED[0], RECEIVED[1], labels=RECEIVED[2])
    processing = HistogramMetricFamily(PROCESSING[0], PROCESSING[1], labels=PROCESSING[2])
    for address, slots in agents.items():
        received.add_metric([address], sum(slots[:_SUM]))
        _histogram(processing, [address], AGENT_BOUNDS, slots)
    yield received
    yield processing


def _of_turns(types: Mapping[str, tuple[list[float], ...]]) -> Iterator[Metric]:
    turns = CounterMetricFamily(TURNS[0], TURNS[1], labels=TURNS[2])
    failed = CounterMetricFamily(FAILED[0], FAILED[1], labels=FAILED[2])
    seconds = HistogramMetricFamily(TURN_SECONDS[0], TURN_SECONDS[1], labels=TURN_SECONDS[2])
    for name, lanes in sorted(types.items()):
        for priority, slots in zip(PRIORITIES, lanes, strict=True):
            turns.add_metric([name, priority], sum(slots[:_SUM]))
            failed.add_metric([name, priority], slots[_FAILED])
            _histogram(seconds, [name, priority], TURN_BOUNDS, slots)
    yield turns
    yield failed
    yield seconds


def _of_types(types: Mapping[str, Any]) -> Iterator[Metric]:
    live = GaugeMetricFamily(LIVE[0], LIVE[1], labels=LIVE[2])
    running = GaugeMetricFamily(RUNNING[0], RUNNING[1], labels=RUNNING[2])
    waiting = GaugeMetricFamily(WAITING[0], WAITING[1], labels=WAITING[2])
    for name, counts in sorted(types.items()):
        live.add_metric([name], counts["live"])
        running.add_metric([name], counts["running"])
        for priority, count in zip(PRIORITIES, counts["waiting"], strict=True):
            waiting.add_metric([name, priority], count)
    yield live
    yield running
    yield waiting


def _of_commits(types: Mapping[str, Sequence[tuple[float, float, float]]]) -> Iterator[Metric]:
    sizes = SummaryMetricFamily(BATCH_TURNS[0], BATCH_TURNS[1], labels=BATCH_TURNS[2])
    ages = SummaryMetricFamily(COMMIT_AGE[0], COMMIT_AGE[1], labels=COMMIT_AGE[2])
    for name, lanes in sorted(types.items()):
        for priority, (batches, turns, seconds) in zip(PRIORITIES, lanes, strict=True):
            if batches:
                sizes.add_metric([name, priority], int(batches), turns)
                ages.add_metric([name, priority], int(batches), seconds)
    yield sizes
    yield ages


def _of_partitions(partitions: Mapping[int, Mapping[str, Any]]) -> Iterator[Metric]:
    """Partitions that are being recovered have a phase and nothing else."""
    owned = GaugeMetricFamily(OWNED[0], OWNED[1], labels=OWNED[2])
    for phase, count in sorted(Counter(partition["phase"] for partition in partitions.values()).items()):
        owned.add_metric([phase], count)
    yield owned
    running = [partition for partition in partitions.values() if "window" in partition]
    backlog = GaugeMetricFamily(BACKLOG[0], BACKLOG[1], labels=BACKLOG[2])
    for lane, priority in enumerate(PRIORITIES):
        backlog.add_metric([priority], sum(partition["window"][lane] for partition in running))
    yield backlog
    yield GaugeMetricFamily(UNSENT[0], UNSENT[1], value=sum(partition["unsent_slots"] for partition in running))


def _single_numbers(statistics: Statistics) -> Iterator[Metric]:
    for name, text, place in COUNTERS:
        if (value := _find(statistics, place)) is not None:
            yield CounterMetricFamily(name, text, value=value)
    for name, text, place in GAUGES:
        if (value := _find(statistics, place)) is not None:
            yield GaugeMetricFamily(name, text, value=value)
    for name, text, count_place, sum_place in SUMMARIES:
        count, total = _find(statistics, count_place), _find(statistics, sum_place)
        if count is not None and total is not None:
            yield SummaryMetricFamily(name, text, count_value=int(count), sum_value=total)


def _find(statistics: Statistics, place: str) -> float | None:
    value: Any = statistics
    for key in place.split("."):
        value = value.get(key, {})
    return value if isinstance(value, (int, float)) else None
