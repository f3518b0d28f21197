"""The parts of a run that decide something, without servers: load, faults, failpoints, proxy, mutations."""

import itertools
import json
import random
import signal
from pathlib import Path

import msgspec
import pytest
from aiokafka.protocol.produce import ProduceRequest_v3, ProduceRequest_v8

from rookery.schemas.envelope import decode
from rookery.schemas.errors import EnvelopeError
from tests.chaos import evidence, failpoints, mutations, nemesis, outages, workload
from tests.chaos.__main__ import USUAL
from tests.chaos.proxy import produced
from tests.chaos.wire import Order, read_envelope


def test_a_seed_gives_the_same_load_again() -> None:
    first, again, other = (list(itertools.islice(workload.commands(seed, 50), 300)) for seed in (1, 1, 2))
    assert first == again != other


def test_nobody_asks_in_a_ring_and_a_turn_that_fails_asks_nothing() -> None:
    for command in itertools.islice(workload.commands(3, 50, {"lock": 0.5, "fickle": 0.5}), 5_000):
        me = int(command.target.partition("/")[2])
        asked = [int(str(op[1]).partition("/")[2]) for op in command.ops if op[0] == "ask"]
        assert all(other > me for other in asked)
        assert not (asked and command.fails)


def test_a_client_message_is_an_envelope_and_poison_is_none_that_can_be_handled() -> None:
    command = next(workload.commands(1, 5))
    message_id, value = workload.encode("client:a", command, 7, 1, "client:a")
    message = read_envelope(value)
    assert (message.id, message.sender, message.target) == (message_id, "client:a", command.target)
    assert msgspec.json.decode(message.payload, type=Order).n == 7
    rng = random.Random(1)
    for _ in range(200):
        try:
            envelope = decode(workload.poison(rng, "Clerk/1", 1))
        except EnvelopeError:
            continue
        assert envelope.type not in (workload.DO, workload.REPORT)


def test_faults_come_in_turn_from_a_seed() -> None:
    planned = nemesis.schedule(["kill", "term"], 100, 5, random.Random(1))
    assert planned == nemesis.schedule(["kill", "term"], 100, 5, random.Random(1))
    assert abs(sum(fault.kind == "kill" for fault in planned) - len(planned) / 2) <= 1
    assert all(before.at < after.at < 100 for before, after in itertools.pairwise(planned))


def test_the_faults_that_are_named_exist() -> None:
    kinds = {*USUAL, *outages.NETWORK, *(kind for mutation in mutations.MUTATIONS for kind in mutation.kinds)}
    assert {kind.partition(":")[0] for kind in kinds} <= nemesis.KINDS.keys()
    assert {point for kind in kinds if (point := kind.partition(":")[2])} <= set(failpoints.POINTS)


def test_every_mutation_has_a_name_and_anomalies_that_the_checker_knows() -> None:
    names = [mutation.name for mutation in mutations.MUTATIONS]
    assert len(set(names)) == len(names)
    assert all(mutation.names and set(mutation.names) <= set(evidence.ANOMALIES) for mutation in mutations.MUTATIONS)
    with pytest.raises(KeyError):
        mutations.switch_off("nothing")


def test_an_armed_point_fires_at_its_passage_and_says_so_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[signal.Signals] = []
    monkeypatch.setattr("os.kill", lambda pid, number: sent.append(number))
    (tmp_path / "worker-1.arm").write_text(json.dumps({"do": "kill", "point": failpoints.ACKED, "after": 2}))
    points = failpoints.Failpoints(tmp_path, "worker-1")
    points.hit(failpoints.ACKED)
    points.poll()
    points.hit(failpoints.APPENDED)
    points.hit(failpoints.ACKED)
    assert sent == []
    points.hit(failpoints.ACKED)
    points.hit(failpoints.ACKED)
    assert sent == [signal.SIGKILL]
    assert json.loads((tmp_path / "fired.jsonl").read_text())["point"] == failpoints.ACKED


@pytest.mark.parametrize("version", [ProduceRequest_v3, ProduceRequest_v8])
def test_the_proxy_reads_what_a_produce_request_is_for(version: type[ProduceRequest_v3]) -> None:
    topics = [("app.inbox.low", [(3, b"records"), (1, b"")]), ("journal", [(0, b"more")])]
    request = version(None, -1, 1000, topics)
    frame = request.build_request_header(correlation_id=5, client_id="me").encode() + request.encode()
    assert produced(frame) == {("app.inbox.low", 3), ("app.inbox.low", 1), ("journal", 0)}
    assert produced(b"\0\3" + frame[2:]) == set()
