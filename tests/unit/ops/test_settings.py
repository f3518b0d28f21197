"""Settings: where a value comes from, and that everything wrong is said at once and without secrets."""

from __future__ import annotations

import os
from typing import Any

import pytest

from rookery.ops.settings import DAY, Settings
from rookery.schemas.errors import ConfigurationError


def problems(**settings: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as raised:
        Settings.load(**{"app_id": "app", **settings})
    return raised.value.problems


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("ROOKERY_") or name in {
            "AGENT_ID",
            "BUS_ADDRESS",
            "KAFKA_BOOTSTRAP_SERVERS",
            "REDIS_URL",
        }:
            monkeypatch.delenv(name)


def test_the_defaults_are_valid_and_frozen() -> None:
    settings = Settings.load(app_id="app")
    assert (settings.broker, settings.redis_url) == ("127.0.0.1:9092", None)
    assert settings.inbox_retention == 7 * DAY
    with pytest.raises(ValueError, match="frozen"):
        settings.partitions = 3


def test_the_application_id_is_required() -> None:
    with pytest.raises(ConfigurationError, match=r"app_id \(ROOKERY_APP_ID, .*\): must be set"):
        Settings.load()


def test_keywords_beat_the_environment_and_that_beats_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOKERY_PARTITIONS", "8")
    monkeypatch.setenv("ROOKERY_CONCURRENCY_MAX", "50")
    settings = Settings.load(app_id="app", partitions=4)
    assert (settings.partitions, settings.concurrency_max, settings.outbox_ring) == (4, 50, 64)


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOKERY_PARTITIONS", "")
    monkeypatch.setenv("ROOKERY_BROKER", " ")
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "k:1")
    settings = Settings.load(app_id="app")
    assert (settings.partitions, settings.broker) == (12, "k:1")


def test_a_worker_is_named_by_either_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.load(app_id="app").agent_id is None
    monkeypatch.setenv("AGENT_ID", "node1")
    assert Settings.load(app_id="app").agent_id == "node1"
    monkeypatch.setenv("ROOKERY_AGENT_ID", "node2")
    assert Settings.load(app_id="app").agent_id == "node2"
    monkeypatch.setenv("ROOKERY_AGENT_ID", "no spaces")
    assert problems()[0].startswith("agent_id (ROOKERY_AGENT_ID, ")


def test_the_broker_is_found_under_three_names_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "three:3")
    assert Settings.load(app_id="app").broker == "three:3"
    monkeypatch.setenv("BUS_ADDRESS", "kafka://two:2;other:2")
    assert Settings.load(app_id="app").broker == "two:2,other:2"
    monkeypatch.setenv("ROOKERY_BROKER", "one:1")
    assert Settings.load(app_id="app").broker == "one:1"
    assert Settings.load(app_id="app", broker="kafka://zero:0/").broker == "zero:0"


def test_the_unprefixed_name_of_a_field_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER", "wrong:1")
    monkeypatch.setenv("PARTITIONS", "3")
    settings = Settings.load(app_id="app")
    assert (settings.broker, settings.partitions) == ("127.0.0.1:9092", 12)


def test_everything_wrong_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOKERY_PARTITIONS", "many")
    monkeypatch.setenv("BUS_ADDRESS", "host:port")
    found = problems(
        session_timeout=6,
        heartbeat_interval=2.5,
        web_port=70_000,
        replication_factor=1,
        min_insync_replicas=2,
        log_level="loud",
        colour="red",
    )
    assert len(found) == 7
    text = "\n".join(found)
    assert (
        "partitions (ROOKERY_PARTITIONS, of every inbox and of the journal): must be a whole number from 1 to 500"
        in text
    )
    assert "broker (BUS_ADDRESS, " in text
    assert "heartbeat_interval (ROOKERY_HEARTBEAT_INTERVAL, " in text
    assert "with session_timeout 6 at most 2 is allowed" in text
    assert "web_port (ROOKERY_WEB_PORT, their port; 0 takes a free one): must be a whole number from 0 to 65535" in text
    assert "with replication_factor 1 at most 1 is allowed" in text
    assert "log_level (ROOKERY_LOG_LEVEL, what the log shows): Input should be 'debug', " in text
    assert "colour: there is no such setting" in text


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "", "1e9"])
def test_a_duration_is_a_finite_number_within_its_bounds(value: str) -> None:
    (problem,) = problems(ask_timeout=value)
    assert "must be a number from 0.01 to 2592000" in problem


def test_a_journal_batch_must_fit_the_topic() -> None:
    assert "with topic_bytes_max 1048588 at most 948588 is allowed" in problems(batch_bytes_max=1_000_000)[0]
    assert (
        Settings.load(app_id="app", topic_bytes_max=2_000_000, batch_bytes_max=1_900_000).batch_bytes_max == 1_900_000
    )


def test_a_password_is_neither_shown_nor_repeated_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.load(app_id="app", redis_url="rediss://:hush@r:6379/0")
    assert settings.redis_url == "rediss://:hush@r:6379/0"
    assert "hush" not in repr(settings) + str(settings)
    monkeypatch.setenv("REDIS_URL", "http://:hush@r/0")
    (problem,) = problems()
    assert problem.startswith("redis_url (REDIS_URL, ")
    assert "hush" not in problem
