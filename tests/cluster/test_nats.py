"""From NATS to agents, between a real nats-server and a real Kafka: plain clients, a stream, and clients of ours.

All run beside one worker; what hurts a server puts it right again. The other way is test_nats_out.py.
"""

import asyncio
import json
import time
from typing import Any

import pytest
from nats.js.api import AckPolicy, ConsumerConfig, StreamConfig

from rookery import AgentError, Client, Overloaded
from rookery.schemas.errors import AskTimeout
from rookery.streams.nats import connect
from rookery.streams.nats.errors import NatsRefused, NatsUnavailable, NotOverNats
from tests.cluster.crew import eventually
from tests.cluster.nats_kit import NATS_SERVER, EdgeProcess
from tests.cluster.nats_world import APP, World

pytestmark = [
    pytest.mark.long,
    pytest.mark.kafka,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(NATS_SERVER is None, reason="there is no nats-server: apt-get install nats-server"),
]


# --- subjects ---------------------------------------------------------------------------------------------------------


async def test_a_plain_client_tells_and_asks(world: World) -> None:
    for _ in range(3):
        await world.outside.publish("agents.Desk/plain", b'{"type": "add", "by": 2}')
    await world.counted("Desk/plain", 6)
    answer = await world.ask("Desk/plain", {"by": 4}, type="add")
    assert json.loads(answer.data) == {"n": 10}
    assert answer.headers["content-type"] == "application/json"


async def test_headers_and_subject_say_what_an_envelope_says(world: World) -> None:
    deadline_ms = round(time.time() * 1000) + 60_000
    headers = {"id": "one-of-mine", "priority": "high", "deadline-ms": str(deadline_ms), "sender": "Other/x"}
    answer = await world.ask("Desk/a%20key%2E.b/c%C3%A9", {"type": "who"}, **headers, traceparent="00-1-2-3")
    assert json.loads(answer.data) == {
        "target": "Desk/a key..b/cé",
        "id": "one-of-mine",
        "sender": "Other/x",
        "priority": "HIGH",
        "deadline": deadline_ms * 1_000_000,
        "headers": {"traceparent": "00-1-2-3"},
    }


async def test_an_id_is_handled_once_and_the_sender_can_wait_for_kafka(world: World) -> None:
    for _ in range(3):
        answer = await world.ask("Desk/once", {"type": "add", "by": 1}, id="the-same", reply="stored")
        assert answer.headers == {"reply": "stored"}
    await world.outside.publish("agents.Desk/once", b'{"type": "add", "by": 10}', headers={"Nats-Msg-Id": "the-same"})
    await world.ask("Desk/once", {"type": "add", "by": 100})
    assert await world.number("Desk/once") == 101


@pytest.mark.parametrize(
    ("subject", "headers", "code"),
    [
        ("Desk", {}, "invalid-address"),
        ("Desk/%2", {}, "invalid-address"),
        ("Desk/%FF", {}, "invalid-address"),
        ("nats/loop", {}, "invalid-address"),
        ("Nobody/x", {"type": "add"}, "unknown-agent-type"),
        ("Desk/x", {"type": "nonsense"}, "unknown-handler"),
        ("Desk/x", {"priority": "urgent"}, "undecodable"),
        ("Desk/x", {"deadline-ms": "soon"}, "undecodable"),
        ("Desk/x", {"type": "add", "deadline-ms": "1"}, "expired"),
        ("Desk/x", {"type": "add"}, "handler-failed"),
    ],
)
async def test_what_is_refused_is_answered_with_its_code(
    world: World, subject: str, headers: dict[str, str], code: str
) -> None:
    answer = await world.ask(subject, {"no": "by"}, **headers)
    assert answer.headers["error"] == code
    assert json.loads(answer.data)["text"]


async def test_an_ask_that_takes_too_long_is_answered_with_a_timeout(world: World) -> None:
    answer = await world.ask("Desk/slow", {"type": "add", "by": 1, "seconds": 1.0}, **{"timeout-ms": "200"})
    assert answer.headers["error"] == "ask-timeout"


async def test_more_asks_than_fit_are_refused_at_once_and_two_edges_share(world: World) -> None:
    async with world.another_edge("narrow", ROOKERY_NATS_IN_FLIGHT="1", ROOKERY_NATS_PREFIX="narrow") as edge:
        body = json.dumps({"type": "add", "by": 1, "seconds": 1.0}).encode()
        answers = await asyncio.gather(*(world.outside.request("narrow.Desk/n", body, timeout=10) for _ in range(5)))
        codes = [(answer.headers or {}).get("error") for answer in answers]
        assert sorted(codes, key=str) == [None, *["overloaded"] * 4]
        client = Client(
            APP, broker=f"nats://127.0.0.1:{world.server.port}", nats_url=world.server.url, nats_prefix="narrow"
        )
        async with client:
            first = asyncio.create_task(client.get_agent("Desk/n").ask({"type": "add", "by": 1, "seconds": 0.5}))
            await asyncio.sleep(0.2)
            with pytest.raises(Overloaded):
                await client.get_agent("Desk/n").ask({"type": "add", "by": 1})
            assert (await first) == {"n": 2}
        await edge.leave()
    async with world.another_edge("second", ROOKERY_NATS_OUT="true") as edge:
        await asyncio.gather(*(world.ask("Desk/shared", {"type": "add", "by": 1}) for _ in range(40)))
        assert await world.number("Desk/shared") == 40
        await edge.leave()


# --- the stream -------------------------------------------------------------------------------------------------------


async def test_a_stream_is_acknowledged_and_what_is_bad_is_put_aside(world: World) -> None:
    js = world.outside.jetstream()
    for number in range(40):
        await js.publish(f"stream.agents.Desk/s{number % 2}", b'{"type": "add", "by": 1}')
    for _ in range(2):
        await js.publish("stream.agents.Desk/s0", b'{"type": "add", "by": 1}', headers={"id": "twice"})
    bad = await js.publish("stream.agents.nobody", b"\xff\x00", headers={"x": "y"})
    await world.counted("Desk/s0", 21)
    await world.counted("Desk/s1", 20)
    await all_acknowledged(world)
    assert (await js.consumer_info("WORK", "rookery")).config.max_ack_pending == 1_000
    async with Client(APP, broker=world.broker, partitions=4) as client:
        (letter,) = [one async for one in client.dead_letters(reasons=["invalid-address"])]
    assert (letter.content.value, letter.content.topic) == (b"\xff\x00", "nats:WORK")
    assert letter.content.offset == bad.seq


async def all_acknowledged(world: World, stream: str = "WORK", durable: str = "rookery") -> None:
    deadline = time.monotonic() + 30
    while True:
        info = await world.outside.jetstream().consumer_info(stream, durable)
        if not info.num_pending and not info.num_ack_pending:
            return
        assert time.monotonic() < deadline, info
        await asyncio.sleep(0.05)


async def test_a_stream_waits_for_kafka_and_a_killed_edge_loses_and_doubles_nothing(world: World) -> None:
    js = world.outside.jetstream()
    await js.add_stream(StreamConfig(name="CUT", subjects=["cut.>"]))
    # An edge takes the consumer that is there; this one gives messages out again soon.
    await js.add_consumer("CUT", ConsumerConfig(durable_name="own", ack_policy=AckPolicy.EXPLICIT, ack_wait=2.0))
    cut = {
        "ROOKERY_NATS_STREAM": "CUT",
        "ROOKERY_NATS_STREAM_PREFIX": "cut",
        "ROOKERY_NATS_DURABLE": "own",
        "ROOKERY_NATS_PREFIX": "nothing",
    }
    async with world.another_edge("doomed", **cut) as doomed:
        world.kafka.suspend()
        try:
            for number in range(60):
                await js.publish(f"cut.Desk/k{number % 3}", b'{"type": "add", "by": 1}')
            deadline = time.monotonic() + 10
            while (info := await js.consumer_info("CUT", "own")).num_ack_pending < 60:
                assert time.monotonic() < deadline, info
                await asyncio.sleep(0.05)
            await asyncio.sleep(1.0)
            info = await js.consumer_info("CUT", "own")
            assert info.num_ack_pending == 60, "acknowledged before Kafka"
        finally:
            doomed.kill()
            world.kafka.resume()
    async with world.another_edge("heir", **cut) as heir:
        for number in range(3):
            await world.counted(f"Desk/k{number}", 20)
        await all_acknowledged(world, "CUT", "own")
        assert (await js.consumer_info("CUT", "own")).delivered.consumer_seq > 60, "nothing was given out again"
        await heir.leave()


# --- an edge that goes ------------------------------------------------------------------------------------------------


async def test_a_stop_finishes_what_is_in_hand(world: World) -> None:
    async with world.another_edge("leaving", ROOKERY_NATS_PREFIX="leaving") as leaving:
        body = json.dumps({"type": "add", "by": 1, "seconds": 1.0}).encode()
        asking = asyncio.create_task(world.outside.request("leaving.Desk/last", body, timeout=10))
        await eventually(lambda: world.metric("rookery_nats_in_flight", leaving) == 1, "the ask is in hand")
        await leaving.leave()
        assert json.loads((await asking).data) == {"n": 1}


# --- clients over NATS ------------------------------------------------------------------------------------------------


async def test_a_client_without_kafka_talks_through_the_edge(world: World) -> None:
    address = f"nats://127.0.0.1:{world.server.port}"
    async with Client(APP, broker=address, nats_url=world.server.url) as client:
        desk = client.get_agent("Desk/remote one")
        await desk.tell({"type": "add", "by": 5})
        assert await desk.ask({"type": "add", "by": 1}) == {"n": 6}
        assert (await desk.state()).n == 6
        facts = await desk.ask({"type": "who"})
        assert (facts["target"], facts["sender"]) == ("Desk/remote one", f"client:{client.name}")
        with pytest.raises(AgentError, match="no handler"):
            await desk.ask({"type": "nonsense"})
        with pytest.raises(AskTimeout):
            await desk.ask({"type": "add", "by": 1, "seconds": 1}, timeout=0.2)
        with pytest.raises(NatsRefused, match="limit is"):
            await desk.tell({"type": "add", "by": 1, "fill": "x" * 920_000})
        for needs_kafka in (client.backlog(), client.handled(), client.tell_many([])):
            with pytest.raises(NotOverNats, match="kafka://"):
                await needs_kafka
        with pytest.raises(NotOverNats):
            await anext(client.dead_letters())


async def test_without_an_edge_or_a_server_a_client_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"nats://127.0.0.1:{world.server.port}"
    lonely: dict[str, Any] = {"broker": address, "nats_prefix": "lonely", "ask_timeout": 0.5}
    async with Client(APP, nats_url=world.server.url, **lonely) as client:
        with pytest.raises(NatsUnavailable, match="no edge listens"):
            await client.get_agent("Desk/x").tell({"type": "add", "by": 1})
        with pytest.raises(NatsUnavailable, match="no edge listens"):
            await client.get_agent("Desk/x").ask({"type": "add", "by": 1})
    monkeypatch.setattr(connect, "CONNECT_PATIENCE", 0.5)
    for url in ("nats://127.0.0.1:1", f"nats://tests:wrong@127.0.0.1:{world.server.port}"):
        with pytest.raises(NatsUnavailable, match=r"NATS at 127\.0\.0\.1:\d+: ") as raised:
            async with Client(APP, broker=address, nats_url=url):
                pass
        assert "wrong" not in str(raised.value)


async def test_a_stream_that_would_answer_for_agents_is_refused(world: World) -> None:
    cases = (
        ({"ROOKERY_NATS_PREFIX": "ledger"}, "the stream LEDGER takes ledger.>"),
        ({"ROOKERY_NATS_STREAM": "NONE"}, "nats_stream NONE: stream not found"),
    )
    edges = [
        EdgeProcess(APP, world.broker, world.server.url, world.folder / f"refused-{number}", extra)
        for number, (extra, _) in enumerate(cases)
    ]
    for edge, (_, says) in zip(edges, cases, strict=True):
        assert await asyncio.to_thread(edge.process.wait, 60) == 2
        assert says in edge.log.read_text()
