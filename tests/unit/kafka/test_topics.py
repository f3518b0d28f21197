"""The table of topics and what its check says; no broker."""

from typing import Any

import pytest

from rookery.ops.settings import Settings
from rookery.schemas.errors import ConfigurationError
from rookery.streams.kafka.topics import DAY_MS, Found, TopicSpec, fitted, problems, replies_spec, specs

SETTINGS = Settings.load(app_id="shop", partitions=6, replication_factor=3, min_insync_replicas=2, broker="k:9092")
TABLE = {spec.name: spec for spec in specs(SETTINGS)}


def as_is(spec: TopicSpec, **changes: Any) -> Found:
    return Found(spec.partitions, spec.replication_factor or 1, dict(spec.policy))._replace(**changes)


def with_policy(spec: TopicSpec, key: str, value: str) -> Found:
    return as_is(spec, policy={**spec.policy, key.replace("_", "."): value})


def test_the_table_is_the_one_of_the_design() -> None:
    assert {name: spec.partitions for name, spec in TABLE.items()} == {
        "shop.inbox.high": 6,
        "shop.inbox.normal": 6,
        "shop.inbox.low": 6,
        "shop-journal-changelog": 6,
        "shop.deadletter": 6,
        "shop.replayed": 6,
        "shop.fence": 3,
        "shop.control": 1,
    }
    journal = TABLE["shop-journal-changelog"].policy
    assert journal["cleanup.policy"] == "compact"
    assert journal["message.timestamp.type"] == "LogAppendTime"
    assert int(journal["min.compaction.lag.ms"]) >= DAY_MS
    assert int(journal["delete.retention.ms"]) >= 7 * DAY_MS
    assert TABLE["shop.inbox.low"].policy["retention.ms"] == str(7 * DAY_MS)
    assert replies_spec(SETTINGS, "cli").name == "shop.replies.cli"
    for spec in TABLE.values():
        assert spec.policy["unclean.leader.election.enable"] == "false"
        assert spec.policy["min.insync.replicas"] == "2"
        assert problems(spec, as_is(spec), "k:9092") == []


def test_a_missing_topic_comes_with_the_line_that_makes_it() -> None:
    (problem,) = problems(TABLE["shop.control"], None, "k:9092")
    assert problem.command == (
        "kafka-topics.sh --bootstrap-server k:9092 --create --topic shop.control --partitions 1 --replication-factor 3"
        " --config cleanup.policy=compact --config min.insync.replicas=2 --config unclean.leader.election.enable=false"
    )


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("cleanup.policy", "delete", "cleanup.policy is delete and must be compact"),
        ("cleanup.policy", "compact,delete", "must be compact"),
        ("message.timestamp.type", "CreateTime", "must be LogAppendTime"),
        ("min.compaction.lag.ms", "0", f"must be at least {DAY_MS}"),
        ("delete.retention.ms", "86400000", "must be at least"),
        ("unclean.leader.election.enable", "true", "must be false"),
        ("min.insync.replicas", "1", "must be at least 2"),
        ("max.message.bytes", "1000", "must be at least"),
    ],
)
def test_a_wrong_journal_is_refused_with_the_line_that_mends_it(key: str, value: str, says: str) -> None:
    spec = TABLE["shop-journal-changelog"]
    (problem,) = problems(spec, with_policy(spec, key, value), "k:9092")
    assert says in str(problem)
    assert problem.command.endswith(
        f"--alter --entity-type topics --entity-name shop-journal-changelog --add-config {key}={spec.policy[key]}"
    )


@pytest.mark.parametrize(("key", "value"), [("retention.ms", "-1"), ("retention.ms", str(30 * DAY_MS))])
def test_more_than_asked_for_is_right(key: str, value: str) -> None:
    spec = TABLE["shop.inbox.low"]
    assert problems(spec, with_policy(spec, key, value), "k") == []


def test_wrong_counts() -> None:
    inbox, fence = TABLE["shop.inbox.low"], TABLE["shop.fence"]
    (problem,) = problems(inbox, as_is(inbox, partitions=8), "k:9092")
    assert problem.command == "export ROOKERY_PARTITIONS=8"
    (problem,) = problems(fence, as_is(fence, partitions=1), "k:9092")
    assert "--alter --topic shop.fence --partitions 3" in problem.command, "deleted, its tokens would begin anew"
    assert not problems(fence, as_is(fence, partitions=6), "k:9092"), "locks stay on the first three"
    control = TABLE["shop.control"]
    (problem,) = problems(control, as_is(control, partitions=2), "k:9092")
    assert "--delete --topic shop.control" in problem.command
    (problem,) = problems(inbox, as_is(inbox, replication_factor=1), "k:9092")
    assert "has 1 replicas where 3 are needed" in str(problem)


@pytest.mark.parametrize(("brokers", "factor", "in_sync"), [(1, 1, "1"), (2, 2, "1"), (3, 3, "2"), (7, 3, "2")])
def test_without_a_setting_topics_get_what_the_cluster_offers(brokers: int, factor: int, in_sync: str) -> None:
    spec = fitted(specs(Settings.load(app_id="shop"))[0], brokers)
    assert (spec.replication_factor, spec.policy["min.insync.replicas"]) == (factor, in_sync)


def test_a_setting_decides_and_is_refused_when_there_are_too_few_brokers() -> None:
    inbox = TABLE["shop.inbox.low"]
    assert fitted(inbox, 5) == inbox
    with pytest.raises(ConfigurationError, match=r"replication_factor is 3, but .* 2 live brokers"):
        fitted(inbox, 2)
    (inbox, *_) = specs(Settings.load(app_id="shop", min_insync_replicas=2))
    with pytest.raises(ConfigurationError, match="min_insync_replicas is 2, but 1 live brokers keep 1 copies"):
        fitted(inbox, 1)


def test_without_a_setting_topics_that_are_there_may_have_any_number_of_copies() -> None:
    (inbox, *_) = specs(Settings.load(app_id="shop", broker="k:9092"))
    assert problems(inbox, as_is(fitted(inbox, 1)), "k:9092") == []
    assert "--replication-factor" not in str(problems(inbox, None, "k:9092")[0])
