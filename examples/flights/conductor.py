"""One run around its job: a fresh application, its topics, its workers, signals, the result, and no process left."""

import argparse
import asyncio
import logging
import os
import signal
import sys
from typing import Any

from aiokafka.errors import KafkaError

from examples.flights import data
from examples.flights.expected import Verdict
from examples.flights.fleet import Fleet, WorkersKeepDying
from examples.flights.job import Job, Stalled
from examples.flights.runs import Runs
from examples.flights.view import Progress, View, report
from rookery import Client, RookeryError, Settings
from rookery.ops.servers import HOME, ServersError
from rookery.ops.servers.lifecycle import borrowed_broker
from rookery.streams.kafka import security, topics

LOGS = HOME / "logs"
CANCEL_SECONDS = 10.0
"""What a job that is interrupted may take to let go."""


class Interrupts:
    """The signals that end a run: the first one asks, the second one kills."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.code: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """The exit code, as soon as a signal has come."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._received, number)

    def _received(self, number: int) -> None:
        if not self.code.done():
            self.code.set_result(128 + number)
            return
        self._fleet.kill()
        os._exit(128 + number)


def options() -> argparse.Namespace:
    """What the command line says: `limit`, `workers`."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.flights.run", description="Count all departures of a year."
    )
    parser.add_argument("--limit", type=_positive, metavar="N", help="only the first N of 336,776 departures")
    parser.add_argument("--workers", type=_positive, default=2, metavar="N", help="worker processes (default: 2)")
    return parser.parse_args()


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


async def conduct(wanted: argparse.Namespace) -> int:
    """Run the job as the command line says, and return the exit code."""
    try:
        data.archive()
        broker = borrowed_broker(HOME.absolute())
        if broker is None:
            raise ServersError("no Kafka is up: `make run` brings one, `make up` starts one that stays")
        runs = Runs(HOME / "flights")
        settings = Settings.load(app_id=runs.start(broker), broker=broker)
    except (RookeryError, data.DataMissing) as error:
        return _failed(error)
    fleet = Fleet(settings.app_id, wanted.workers, settings.broker, LOGS)
    # Of this process; on the terminal it would run through the table.
    logging.basicConfig(filename=LOGS / f"{settings.app_id}-run.log", format="%(asctime)s %(levelname)s %(message)s")
    interrupts = Interrupts(fleet)
    job = asyncio.create_task(_job(settings, runs, fleet, wanted.limit), name="job")
    supervisor = asyncio.create_task(fleet.supervise(), name="supervisor")
    ends: set[asyncio.Future[Any]] = {job, supervisor, interrupts.code}
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for task in (job, supervisor):
            if task.done():
                task.result()
    except (RookeryError, KafkaError, WorkersKeepDying, Stalled) as error:
        return _failed(error)
    finally:
        for task in (job, supervisor):
            task.cancel()
        done, _ = await asyncio.wait({job, supervisor}, timeout=CANCEL_SECONDS)
        # Looked at here, or asyncio would complain later about what nobody asked for.
        _ = [task.cancelled() or task.exception() for task in done]
        await fleet.stop()
    if interrupts.code.done():
        print("interrupted, nothing is left running", file=sys.stderr)
        return interrupts.code.result()
    verdict, seconds = job.result()
    return _report(verdict, seconds, fleet)


async def _job(settings: Settings, runs: Runs, fleet: Fleet, limit: int | None) -> tuple[Verdict, float]:
    """Clean up after earlier runs, then do the job; returns its verdict, and the seconds it took."""
    kafka = security.client_kwargs(settings)
    for earlier in runs.ended(settings.broker):
        await topics.remove(earlier, kafka)
        runs.forget(earlier)
    await topics.ensure(settings, kafka)
    fleet.start()
    progress = Progress(settings.app_id, min(limit or data.RECORDS, data.RECORDS))
    async with Client(settings.app_id, broker=settings.broker) as client:
        with View(progress) as view:
            job = Job(client, fleet, progress, view, limit)
            return await job.run(), job.seconds


def _report(verdict: Verdict, seconds: float, fleet: Fleet) -> int:
    """Print the result."""
    if fleet.restarts:
        print(f"workers that died and were started again: {fleet.restarts}; see {LOGS}")
    report(verdict, seconds)
    return 0 if verdict.ok else 1


def _failed(error: Exception) -> int:
    print(f"FAILED: {error}", file=sys.stderr)
    return 1
