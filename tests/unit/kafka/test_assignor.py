"""The adapter: what members say travels, four topics move together, and restarts and other versions are understood."""

from __future__ import annotations

import json
from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rookery import Agent, App, handler
from rookery.streams.core.fleet import Fleet, Share, Standing, decode_fleet, decode_standing
from rookery.streams.kafka.assignor import NAME, WeightedAssignor, returned

PARTITIONS = 12


class Idle(Agent):
    @handler("go")
    async def go(self, msg: dict[str, Any]) -> None: ...


class Group:
    """Workers of one application, and a leader that assigns as aiokafka has it do."""

    def __init__(self, *names: str, standbys: int = 0) -> None:
        self.workers: dict[str, WeightedAssignor] = {}
        for name in names:
            app = App("fleet", agents=[Idle], partitions=PARTITIONS, agent_id=name, standbys=standbys, web_port=7000)
            app.finalize()
            self.workers[name] = cast("WeightedAssignor", app.assignor)
            self.names = app.topic_names
        self.topics = [*self.names.inboxes, self.names.journal]
        self.cluster = SimpleNamespace(partitions_for_topic=lambda topic: set(range(PARTITIONS)))

    def weigh(self, **weights: float) -> None:
        for name, weight in weights.items():
            self.workers[name].standing = Standing(name, weight)

    def rebalance(self, *present: str) -> None:
        joined = {f"id-{name}": self.workers[name].metadata(set(self.topics)) for name in present or self.workers}
        leader = next(iter(present or self.workers))
        for member, assignment in self.workers[leader].assign(self.cluster, joined).items():
            self.workers[member.removeprefix("id-")].on_assignment(assignment)

    def owned(self) -> dict[str, int]:
        return {name: len(worker.owned) for name, worker in self.workers.items()}


def test_shares_follow_the_weights_and_all_four_topics_move_together() -> None:
    group = Group("a", "b", "c")
    group.weigh(a=3.0, b=1.0, c=2.0)
    group.rebalance()
    assert group.owned() == {"a": 6, "b": 2, "c": 4}
    for worker in group.workers.values():
        by_topic: dict[str, set[int]] = {topic: set() for topic in group.topics}
        for tp in worker.assigned_actives():
            by_topic[tp.topic].add(tp.partition)
        assert set(map(frozenset, by_topic.values())) == {worker.owned}
    fleet = group.workers["c"].fleet
    assert {share.name: share.weight for share in fleet.workers} == {"a": 3.0, "b": 1.0, "c": 2.0}
    assert Counter(p for share in fleet.workers for p in share.owned) == Counter(range(PARTITIONS))


def test_what_was_assigned_stays_and_the_least_moves() -> None:
    group = Group("a", "b", "c")
    group.weigh(a=3.0, b=1.0, c=1.0)
    group.rebalance("a", "b")
    before = {name: worker.owned for name, worker in group.workers.items()}
    group.rebalance()
    assert group.owned() == {"a": 7, "b": 3, "c": 2}
    assert group.workers["b"].owned == before["b"]
    assert group.workers["a"].owned < before["a"]


def test_copies_are_of_the_journal_only_and_with_others() -> None:
    group = Group("a", "b", standbys=1)
    group.rebalance()
    for name, other in (("a", "b"), ("b", "a")):
        copies = {tp.partition for tp in group.workers[name].assigned_standbys()}
        assert copies == set(group.workers[other].owned)
        share = group.workers["a"].fleet.share(name)
        assert set(share.owned) == set(group.workers[name].owned)
        assert set(share.copies) == copies


def test_a_postponed_move_is_told_to_all() -> None:
    group = Group("a", "b")
    group.rebalance("a")
    group.workers["a"].standing = Standing("a", busy=tuple(range(PARTITIONS)))
    group.rebalance()
    assert group.owned() == {"a": 12, "b": 0}
    assert set(group.workers["b"].fleet.postponed.values()) == {"b"}
    assert len(group.workers["b"].fleet.postponed) == 6
    group.workers["a"].standing = Standing("a", busy=tuple(range(PARTITIONS)), overdue=tuple(range(PARTITIONS)))
    group.rebalance()
    assert group.owned() == {"a": 6, "b": 6}
    assert not group.workers["a"].fleet.postponed


def test_workers_that_were_started_again_get_back_what_they_had() -> None:
    group = Group("a", "b", "c")
    group.rebalance("c")
    group.rebalance("b", "c")
    group.rebalance()
    before = {name: worker.owned for name, worker in group.workers.items()}
    group.workers |= Group("b", "c").workers
    group.rebalance()
    assert {name: worker.owned for name, worker in group.workers.items()} == before


def test_a_worker_that_was_away_gets_nothing_back_that_others_own_now() -> None:
    fleet = Fleet(5, (Share("a", owned=(1, 2)), Share("b", owned=(3,))))
    assert returned(fleet, Standing("c")).owned == ()
    assert returned(fleet, Standing("b", generation=4, owned=(1,))).owned == (1,)
    assert returned(fleet, Standing("b", generation=4, owned=(1,))).member("id").generation == 4


def test_another_version_is_understood() -> None:
    newer = json.dumps({"name": "x", "weight": 2.0, "colour": "green"})
    assert decode_standing(newer) == Standing("x", 2.0)
    assert decode_standing("{}") == Standing()
    assert decode_fleet('{"generation": 3, "mood": 1}') == Fleet(3)


def test_the_protocol_has_a_name_of_its_own() -> None:
    assert Group("a").workers["a"].name == NAME != "faust"


@pytest.mark.parametrize("missing", ["inbox", "journal"])
def test_a_topic_that_is_not_there_is_left_out(missing: str) -> None:
    group = Group("a")
    gone = group.names.journal if missing == "journal" else group.names.inboxes[0]
    group.cluster.partitions_for_topic = lambda topic: set() if topic == gone else set(range(PARTITIONS))
    group.rebalance()
    assert {tp.topic for tp in group.workers["a"].assigned_actives()} == set(group.topics) - {gone}
