"""A fleet under operation: drain and resume, a rolling restart that moves nothing, the commands."""

import asyncio
import re
import time
import uuid
from pathlib import Path

import pytest

from rookery import Agent, AgentManager, Client
from rookery.schemas.address import partition_of
from tests.cluster.crew import Sender, Worker, counted, crew, environment, eventually
from tests.cluster.test_weights import owned
from tests.programs import Program

pytestmark = [pytest.mark.long, pytest.mark.kafka, pytest.mark.asyncio]

TWELVE = {"COUNTING_PARTITIONS": "12"}


class Count(Agent):
    """Stands for the class of that name in the workers."""

    n: int = 0


def command(app_id: str, broker: str, folder: Path, *words: str) -> Program:
    """A command of the application."""
    log = folder / f"{uuid.uuid4().hex}.log"
    variables = environment(app_id, broker, TWELVE)
    return Program("faust", "-A", "counting_app", *words, cwd=Path(__file__).parent, env=variables, log=log)


async def said(process: Program, code: int = 0) -> str:
    """What it printed, once it has ended."""
    await asyncio.to_thread(process.wait, 200)
    out = process.log.read_text()
    assert process.returncode == code, out
    return out


def revocations(worker: Worker) -> int:
    return worker.log.read_text().count("closed: revoked")


async def test_drain_and_resume_and_what_the_commands_show(
    broker: str, app_id: str, send: Sender, tmp_path: Path
) -> None:
    with crew(app_id, broker, tmp_path) as start:
        a, b = (start(name, AGENT_ID=name, **TWELVE) for name in "ab")
        await eventually(lambda: len(owned(a)) == len(owned(b)) == 6, "6 and 6", timeout=150)
        watch = command(app_id, broker, tmp_path, "rebalance", "watch", "--seconds", "600")
        plan = await said(command(app_id, broker, tmp_path, "rebalance", "plan", "--weight", "b=3"))
        assert "3 moves" in plan
        assert "the share of a is 3, it has 6" in plan
        await send(10)
        assert "owns nothing any more" in await said(command(app_id, broker, tmp_path, "drain", "b"))
        await eventually(lambda: len(owned(a)) == 12 and not owned(b), "all at one worker", timeout=90)
        await counted(app_id, broker, send.sent)
        assert "owns partitions again" in await said(command(app_id, broker, tmp_path, "resume", "b"))
        await eventually(lambda: len(owned(a)) == len(owned(b)) == 6, "6 and 6 again", timeout=90)
        watch.terminate()
        await asyncio.to_thread(watch.wait, 60)
        shown = watch.log.read_text()
        assert "a 12 (weight 1.00), b 0 (weight 0.00); 6 moved" in shown, shown
        refused = await said(command(app_id, broker, tmp_path, "drain", "nobody"), code=1)
        assert "no worker is called nobody; there are: a, b" in refused


async def test_agents_are_spawned_in_proportion_to_weights(broker: str, app_id: str, tmp_path: Path) -> None:
    with crew(app_id, broker, tmp_path) as start:
        a, b = (start(n, AGENT_ID=n, ROOKERY_WEIGHT=w, **TWELVE) for n, w in (("a", "3"), ("b", "1")))
        await eventually(lambda: len(owned(a)) == 9 and len(owned(b)) == 3, "9 and 3", timeout=150)
        async with Client(app_id, agents=[Count], broker=broker, partitions=12) as client:
            await eventually(
                lambda: bool(client.new_agent_id()) and client.placement.is_known, "weights are known", timeout=90
            )
            manager = AgentManager(client)
            spawned = await asyncio.gather(*(manager.spawn_agent(Count) for _ in range(40)))
        at_b = [agent for agent in spawned if partition_of(agent, 12) in owned(b)]
        assert len(at_b) == 10


async def test_a_rolling_restart_of_static_members_moves_nothing(
    broker: str, app_id: str, send: Sender, tmp_path: Path
) -> None:
    static = {"ROOKERY_STATIC_MEMBERSHIP": "true", "ROOKERY_SESSION_TIMEOUT": "120", **TWELVE}
    with crew(app_id, broker, tmp_path) as start:
        crew_of = {name: start(name, AGENT_ID=name, **static) for name in "abc"}
        await eventually(lambda: all(len(owned(w)) == 4 for w in crew_of.values()), "4 each", timeout=120)
        joined = {name: worker.log.read_text().count("Joined group") for name, worker in crew_of.items()}
        first = {name: owned(worker) for name, worker in crew_of.items()}
        stop = asyncio.Event()
        feeding = asyncio.create_task(feed(send, stop))
        pauses = []
        for name in "abc":
            started = time.monotonic()
            assert not await crew_of[name].leave()
            again = start(f"{name}2", AGENT_ID=name, **static)
            await eventually(lambda worker=again: len(owned(worker)) == 4, "back", timeout=100)  # type: ignore[misc]
            pauses.append(time.monotonic() - started)
            assert owned(again) == first[name]
            crew_of[name] = again
            for other, worker in crew_of.items():
                if other > name:
                    assert worker.log.read_text().count("Joined group") == joined[other], "nobody else noticed"
        stop.set()
        await feeding
        await counted(app_id, broker, send.sent)
        assert not any(revocations(worker) for worker in crew_of.values())
        print(f"pauses of the partitions of a restarted worker: {', '.join(f'{p:.1f} s' for p in pauses)}")


async def feed(send: Sender, stop: asyncio.Event) -> None:
    while not stop.is_set():
        await send(1)
        await asyncio.sleep(0.2)


async def test_a_new_weight_is_in_force_at_once(broker: str, app_id: str, tmp_path: Path) -> None:
    """From the request for a rebalance to the last partition recovered, by the workers' logs."""
    with crew(app_id, broker, tmp_path) as start:
        a, b = (start(name, AGENT_ID=name, **TWELVE) for name in "ab")
        await eventually(lambda: len(owned(a)) == len(owned(b)) == 6, "6 and 6", timeout=150)
        await said(command(app_id, broker, tmp_path, "drain", "b"))
        await eventually(lambda: len(owned(a)) == 12, "12", timeout=90)
        asked = stamp(b, "asked for a rebalance: drained")
        done = max(stamp(a, r"recovered partition \d+"), asked)
        print(f"from the request to all recovered: {done - asked:.2f} s")
        assert done - asked < 20  # 0.5 s on an idle machine


def stamp(worker: Worker, text: str) -> float:
    """When a line was logged last, seconds of the day."""
    times = re.findall(rf"\[\S+ (\d+):(\d+):(\d+),(\d+)\].*{text}", worker.log.read_text())
    hours, minutes, seconds, milliseconds = map(int, times[-1])
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000
