"""The ground a worker stands on, on a real Kafka: topics made again, records deleted unhandled, other programs."""

import asyncio
import re
import subprocess
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from rookery.ops.settings import Settings
from rookery.schemas.address import partition_of
from rookery.schemas.errors import NotFenced
from rookery.streams.core.routing import Topics
from rookery.streams.kafka import fencetest, topics
from rookery.streams.kafka.batches import Identity, fetch_identity, plain_producer, stop_producer
from rookery.streams.kafka.topicids import topic_ids
from tests.cluster.crew import PARTITIONS, Sender, Worker, counted, crew, environment, eventually, lost_stretches
from tests.programs import run

pytestmark = [pytest.mark.kafka, pytest.mark.asyncio]


def command(app_id: str, broker: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return run("faust", "-A", "counting_app", *words, cwd=folder, env=environment(app_id, broker), timeout=60)


async def made_again(admin: AIOKafkaAdminClient, broker: str, app_id: str, topic: str) -> None:
    before = (await topic_ids(admin._client, [topic]))[0]
    await admin.delete_topics([topic])
    settings = Settings.load(app_id=app_id, broker=broker, partitions=PARTITIONS)
    async with asyncio.timeout(20):
        while not await topics.ensure(settings, {"bootstrap_servers": broker}):  # noqa: ASYNC110 - asks the broker
            await asyncio.sleep(0.1)
    assert (await topic_ids(admin._client, [topic]))[0] != before


async def refused(worker: Worker, words: str, timeout: float = 40.0) -> None:
    """The worker ends by itself, not well, and says why."""
    await eventually(lambda: worker.process.poll() is not None, f"end of {worker.log}", timeout)
    assert worker.process.returncode != 0
    assert words in worker.log.read_text()


async def test_an_inbox_that_was_made_again_is_refused_until_accepted(
    broker: str, app_id: str, send: Sender, tmp_path: Path, admin: AIOKafkaAdminClient
) -> None:
    inbox = Topics(app_id).inboxes[1]
    with crew(app_id, broker, tmp_path) as start:
        one = start("one")
        await one.until("Worker ready")
        await send(3)
        await counted(app_id, broker, send.sent)
        assert not await one.leave()

        await made_again(admin, broker, app_id, inbox)
        await send(9)  # more than the old one ever had
        await refused(start("two"), f"topic {inbox}: was deleted and made again")

        done = command(app_id, broker, tmp_path, "topics", "accept")
        assert done.returncode == 0, done.stderr
        assert "rewrote the positions of 4 journal partitions" in done.stdout
        three = start("three")
        await counted(app_id, broker, send.sent)
        await send(3)
        await counted(app_id, broker, send.sent)
        assert command(app_id, broker, tmp_path, "topics", "accept").returncode == 1, "while a worker runs"
        shown = command(app_id, broker, tmp_path, "agents").stdout
        assert re.search(r"http://127\.0\.0\.1:\d+\D+0 1 2 3 .*Count 40", shown), shown
        assert not await three.leave()


async def test_an_inbox_that_is_made_again_under_a_running_worker_ends_it(
    broker: str, app_id: str, send: Sender, tmp_path: Path, admin: AIOKafkaAdminClient
) -> None:
    with crew(app_id, broker, tmp_path) as start:
        one = start("one", ROOKERY_GROUND_INTERVAL="1")
        await one.until("recovered partition", 4)
        await send(3)
        await counted(app_id, broker, send.sent)
        await made_again(admin, broker, app_id, Topics(app_id).inboxes[0])
        # Said by what watches the ground, or by a recovery: the group shares out anew when a topic is gone.
        await refused(one, "was deleted")


async def test_what_was_deleted_unhandled_is_a_counted_loss_with_a_dead_letter(
    broker: str, app_id: str, send: Sender, tmp_path: Path, admin: AIOKafkaAdminClient
) -> None:
    """While nobody ran; tests/unit/engine/test_ground.py has it under a running worker, too."""
    inbox, agent = Topics(app_id).inboxes[1], "Count/0"
    number = partition_of(agent, PARTITIONS)

    async def delete(before: int) -> None:
        tp = TopicPartition(inbox, number)
        await admin.delete_records({tp: RecordsToDelete(before)})

    with crew(app_id, broker, tmp_path) as start:
        one = start("one")
        await one.until("Worker ready")
        await send.to(agent, 10)
        await counted(app_id, broker, send.sent)
        assert not await one.leave()

        await send.to(agent, 10)
        await delete(15)
        two = start("two")
        send.sent[agent] -= 5
        await counted(app_id, broker, send.sent)
        assert await lost_stretches(app_id, broker) == [(inbox, number, 10, 14)]

        await two.leave()


async def test_another_program_under_the_same_id_is_refused(broker: str, app_id: str, tmp_path: Path) -> None:
    with crew(app_id, broker, tmp_path) as start:
        one = start("one")
        await one.until("Worker ready")
        await refused(start("other", module="other_app"), "agent types that this worker does not know: Count")
        assert not await one.leave()


async def test_the_broker_fences_and_one_that_does_not_is_refused(
    broker: str, app_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kwargs = {"bootstrap_servers": broker}
    await topics.ensure(Settings.load(app_id=app_id, broker=broker, partitions=1), kwargs)
    producer = plain_producer(kwargs, 10.0)
    await producer.start()
    try:
        check = producer, app_id, Topics(app_id).control, broker, 10.0
        await asyncio.gather(*(fencetest.check_fence(*check) for _ in range(3)))

        async def same_for_all(*_: object) -> Identity:
            return identities.pop()

        # Two ids without an order between them are what a broker without fences makes of them.
        identities = [await fetch_identity(producer, None, 10.0) for _ in range(2)]
        monkeypatch.setattr(fencetest, "fetch_identity", same_for_all)
        with pytest.raises(NotFenced, match="can't keep two workers"):
            await fencetest.check_fence(*check)
    finally:
        await stop_producer(producer, 10.0)
