"""The NATS edge between a real nats-server and a real Kafka, seen from plain NATS clients and from agents.

All run beside one worker; what hurts a server puts it right again.
"""

import asyncio
import json
import time
import urllib.request
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio
from nats.js.api import AckPolicy, ConsumerConfig, StreamConfig

from rookery import AgentError, Client, Overloaded
from rookery.ops.settings import Settings
from rookery.schemas.errors import AskTimeout
from rookery.streams.kafka.deadletters import DeadLetterBox, Selection
from rookery.streams.kafka.replay import How, Replayer
from rookery.streams.nats import connect
from rookery.streams.nats.errors import NatsRefused, NatsUnavailable, NotOverNats
from tests.certificates import Authority
from tests.cluster.crew import crew, eventually, own_broker
from tests.cluster.nats_kit import NATS_CLI, NATS_SERVER, EdgeProcess, NatsServer

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(NATS_SERVER is None, reason="there is no nats-server: apt-get install nats-server"),
]
APP = "nats-tests"


@dataclass
class World:
    broker: str
    kafka: psutil.Process
    server: NatsServer
    outside: Any  # a plain NATS client
    folder: Path
    edge: EdgeProcess = field(init=False)

    def __post_init__(self) -> None:
        self.edge = self.main_edge("edge")

    def main_edge(self, name: str) -> EdgeProcess:
        """The edge that all tests use, which does everything."""
        return EdgeProcess(APP, self.broker, self.server.url, self.folder / name, {"ROOKERY_NATS_STREAM": "WORK"})

    async def ask(self, address: str, body: Any, **headers: str) -> Any:
        """What a plain client gets as the answer."""
        return await self.outside.request(
            f"agents.{address}", json.dumps(body).encode(), timeout=20, headers=headers or None
        )

    async def number(self, address: str) -> int:
        answer = await self.ask(address, {}, type="rookery.state")
        return int(json.loads(answer.data)["n"])

    async def counted(self, address: str, number: int) -> None:
        """The agent gets there, and stays there."""
        deadline = time.monotonic() + 30
        while (found := await self.number(address)) != number:
            assert found < number, f"{found} for {number}: doubled"
            assert time.monotonic() < deadline, f"{found} of {number}"
            await asyncio.sleep(0.05)

    def page(self, name: str, edge: EdgeProcess | None = None) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{(edge or self.edge).port}/{name}", timeout=5) as page:
            return str(page.read().decode())

    def metric(self, name: str, edge: EdgeProcess | None = None) -> float:
        lines = dict(line.rsplit(" ", 1) for line in self.page("metrics", edge).splitlines() if line[0] != "#")
        return float(lines[name])

    @asynccontextmanager
    async def another_edge(self, name: str, **extra: str) -> AsyncIterator[EdgeProcess]:
        edge = EdgeProcess(
            APP, self.broker, self.server.url, self.folder / name, {"ROOKERY_NATS_OUT": "false", **extra}
        )
        try:
            await edge.ready()
            yield edge
        finally:
            edge.kill()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder = tmp_path_factory.mktemp("nats")
    server = NatsServer(folder / "server")
    outside = await server.client()
    await outside.jetstream().add_stream(StreamConfig(name="WORK", subjects=["stream.agents.>"]))
    await outside.jetstream().add_stream(StreamConfig(name="LEDGER", subjects=["ledger.>"]))
    await outside.jetstream().add_stream(StreamConfig(name="TINY", subjects=["tiny.>"], max_msg_size=10))
    with own_broker(folder) as (broker, kafka), crew(APP, broker, folder) as start:
        worker = start("worker", "nats_app")
        await worker.until("Worker ready")
        world = World(broker, kafka, server, outside, folder)
        try:
            await world.edge.ready()
            # Refused again and again, and put aside about when the last test looks.
            await world.ask("Desk/odd", {"type": "shout", "subject": "tiny.x", "count": 2})
            yield world
            await outside.close()
            await world.edge.leave()
            assert not await worker.leave()
        finally:
            world.edge.kill()
            server.stop()


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


# --- agents to NATS ---------------------------------------------------------------------------------------------------


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


# --- servers that go and come -----------------------------------------------------------------------------------------


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


async def test_tls_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path)
    files = authority.issue("server")
    server = NatsServer(tmp_path / "tls", f'tls {{ cert_file: "{files.certificate}", key_file: "{files.key}" }}')
    url = server.url.replace("nats:", "tls:")
    try:
        settings = Settings.load(app_id=APP, nats_url=url, nats_ca_file=authority.ca_file)
        link = connect.Link(settings, "tests", url)
        await link.open()
        assert await link.stream_of("any") is None
        await link.close()
        monkeypatch.setattr(connect, "CONNECT_PATIENCE", 0.5)
        with pytest.raises(NatsUnavailable, match="certificate verify failed"):
            await connect.Link(Settings.load(app_id=APP, nats_url=url), "tests", url).open()
    finally:
        server.stop()


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


async def test_what_can_not_be_published_becomes_a_dead_letter_and_can_be_sent_again(world: World) -> None:
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
