"""From agents to NATS, between a real nats-server and a real Kafka: to subscribers, streams, services; servers that go.

All run beside one worker; what hurts a server puts it right again. The other way is test_nats.py.
"""

import asyncio
import json
import time
from asyncio.subprocess import PIPE, STDOUT
from typing import Any

import pytest
from nats.js.api import StreamConfig

from rookery import Client
from rookery.ops.settings import Settings
from rookery.streams.kafka.deadletters import DeadLetterBox, Selection
from rookery.streams.kafka.replay import How, Replayer
from tests.cluster.crew import eventually
from tests.cluster.nats_kit import NATS_CLI, NATS_SERVER
from tests.cluster.nats_world import APP, World

pytestmark = [
    pytest.mark.long,
    pytest.mark.kafka,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(NATS_SERVER is None, reason="there is no nats-server: apt-get install nats-server"),
]


async def test_an_agent_publishes_in_order_to_subscribers_and_to_a_stream(world: World) -> None:
    news = await world.outside.subscribe("news.>")
    await world.ask("Desk/loud", {"type": "shout", "subject": "news.of.today", "count": 20})
    got = [await news.next_msg(timeout=20) for _ in range(20)]
    assert [json.loads(msg.data)["number"] for msg in got] == list(range(20))
    assert {msg.headers["sender"] for msg in got} == {"Desk/loud"}
    assert got[0].headers["type"] == "Shouted"
    assert len({msg.headers["Nats-Msg-Id"] for msg in got}) == 20
    await news.unsubscribe()
    await world.ask("Desk/loud", {"type": "shout", "subject": "ledger.loud", "count": 30})
    assert await stored(world, "ledger.loud", 30) == list(range(30))
    async with Client(APP, broker=world.broker, partitions=4, nats_out=True) as client:
        await client.get_agent("nats/ledger.client").tell({"type": "Shouted", "number": 7})
        assert await stored(world, "ledger.client", 1) == [7]


async def stored(world: World, subject: str, count: int, stream: str = "LEDGER") -> list[int]:
    """The numbers that the stream has under a subject, once there are so many."""
    js = world.outside.jetstream()
    deadline = time.monotonic() + 30
    while (await js.stream_info(stream, subjects_filter=subject)).state.subjects != {subject: count}:
        assert time.monotonic() < deadline, subject
        await asyncio.sleep(0.05)
    reading = await js.subscribe(subject, stream=stream, ordered_consumer=True)
    found = [json.loads((await reading.next_msg(timeout=10)).data)["number"] for _ in range(count)]
    await reading.unsubscribe()
    return found


async def test_an_agent_asks_a_service_on_nats(world: World) -> None:
    async def answer(msg: Any) -> None:
        question = json.loads(msg.data)["question"]
        if question == "why":
            await msg._client.publish(
                msg.reply, b"", headers={"Nats-Service-Error": "nobody knows", "Nats-Service-Error-Code": "404"}
            )
        elif question != "silence":
            await msg.respond(json.dumps({"answer": question * 2}).encode() if question != "bytes" else b"\xff")

    oracle = await world.outside.subscribe("oracle", cb=answer)

    async def consult(question: str, subject: str = "oracle", timeout: float = 20) -> Any:
        client_says = {"type": "consult", "subject": subject, "question": question, "timeout": timeout}
        return await world.ask("Desk/humble", client_says)

    assert json.loads((await consult("ab")).data) == {"answer": "abab"}
    raw = await consult("bytes")
    assert (raw.data, raw.headers["content-type"]) == (b"\xff", "application/octet-stream")
    for question, subject, says in (
        ("why", "oracle", "404"),
        ("ab", "nobody", "nats-refused"),
        ("silence", "oracle", "no reply from nats/oracle"),
    ):
        refused = await consult(question, subject, 1.0)
        assert refused.headers["error"] == ("ask-timeout" if question == "silence" else "handler-failed")
        assert says in json.loads(refused.data)["text"]
    await oracle.unsubscribe()


@pytest.mark.skipif(NATS_CLI is None, reason="there is no nats command line, which is NATS' own program in Go")
async def test_the_command_line_of_nats_talks_to_agents_and_answers_them(world: World) -> None:
    def nats_cli(*words: str) -> list[str]:
        return [str(NATS_CLI), "--server", world.server.url, *words]

    async def run(*words: str) -> str:
        running = await asyncio.create_subprocess_exec(*nats_cli(*words), stdout=PIPE, stderr=STDOUT)
        said, _ = await asyncio.wait_for(running.communicate(), 30)
        assert running.returncode == 0, said.decode()
        return said.decode()

    await run("pub", "agents.Desk/cli", '{"type": "add", "by": 2}')
    await world.counted("Desk/cli", 2)
    said = await run("request", "--raw", "-H", "type:add", "-H", "priority:high", "agents.Desk/cli", '{"by": 40}')
    assert json.loads(said) == {"n": 42}
    await run("pub", "stream.agents.Desk/cli", '{"type": "add", "by": 1}', "--jetstream")
    await world.counted("Desk/cli", 43)
    service = await asyncio.create_subprocess_exec(*nats_cli("reply", "oracle.cli", '{"answer": 42}'))
    try:
        await asyncio.sleep(0.5)
        body = {"type": "consult", "subject": "oracle.cli", "question": "what"}
        assert json.loads((await world.ask("Desk/cli", body)).data) == {"answer": 42}
    finally:
        service.kill()
        await service.wait()


async def test_a_restart_of_nats_and_a_killed_edge_lose_nothing_that_agents_sent(world: World) -> None:
    reconnects = world.metric("rookery_nats_reconnects_total")
    async with Client(APP, broker=world.broker, partitions=4) as client:
        desk = client.get_agent("Desk/patient")
        async with world.another_edge("stranded") as stranded:
            world.server.stop()
            await stranded.leave()
        assert await desk.ask({"type": "shout", "subject": "ledger.patient", "count": 25}) == {"n": 25}
        await eventually(lambda: world.metric("rookery_nats_in_flight") == 25, "the edge has them, and no NATS")
        assert world.metric("rookery_nats_connected") == 0
        with pytest.raises(OSError, match="503"):
            world.page("readyz")
        world.server.start()
        assert await stored(world, "ledger.patient", 25) == list(range(25))
        await eventually(lambda: world.metric("rookery_nats_in_flight") == 0, "all done")
        assert world.metric("rookery_nats_reconnects_total") > reconnects
        world.server.stop()
        assert await desk.ask({"type": "shout", "subject": "ledger.heir", "count": 25}) == {"n": 50}
        await eventually(lambda: world.metric("rookery_nats_in_flight") == 25, "the edge has them, and no NATS")
        world.edge.kill()
        world.server.start()
    world.edge = world.main_edge("edge-heir")
    await world.edge.ready()
    assert await stored(world, "ledger.heir", 25) == list(range(25))
    assert await world.number("Desk/patient") == 50


async def test_what_can_not_be_published_becomes_a_dead_letter_and_can_be_sent_again(world: World) -> None:
    await world.ask("Desk/odd", {"type": "shout", "subject": "tiny.x", "count": 2})  # refused for a while
    for subject in ("a b", "a..b", "a.*", "$SYS.x", "forbidden.x"):
        await world.ask("Desk/odd", {"type": "shout", "subject": subject, "count": 1})
    async with Client(APP, broker=world.broker, partitions=4) as client:
        deadline = time.monotonic() + 60
        while len(found := [letter async for letter in client.dead_letters(agent="nats/*")]) < 7:
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.2)
    reasons = {letter.content.target: letter.content.reason for letter in found}
    assert reasons == {
        "nats/a b": "invalid-subject",
        "nats/a..b": "invalid-subject",
        "nats/a.*": "invalid-subject",
        "nats/$SYS.x": "invalid-subject",
        "nats/forbidden.x": "nats-refused",
        "nats/tiny.x": "nats-refused",
    }
    assert json.loads(found[0].payload)["number"] == 0
    await world.outside.jetstream().update_stream(StreamConfig(name="TINY", subjects=["tiny.>"], max_msg_size=1_000))
    settings = Settings.load(app_id=APP, broker=world.broker, partitions=4)
    kafka = {"bootstrap_servers": world.broker}
    async with DeadLetterBox(APP, kafka) as box:
        tally = await Replayer(box, settings, kafka, How()).run(Selection(agent="nats/tiny.*"), print)
    assert (tally.sent, tally.refused) == (2, {})
    assert await stored(world, "tiny.x", 2, "TINY") == [0, 1]
