"""Feeds workers that run elsewhere, and holds their agents against the data: `python -m examples.flights.check`.

It feeds an application only once: when it is run again, it checks that the agents still know everything.
"""

import argparse
import asyncio
import os
import sys

from aiokafka.errors import KafkaError

from examples.flights import data
from examples.flights.expected import Verdict
from examples.flights.job import Job, Stalled
from examples.flights.view import Progress, View, report
from rookery import Client, RookeryError


async def check(app_id: str, limit: int | None) -> tuple[Verdict, float]:
    """Feed the application unless that was done before, wait, compare; returns the verdict and the seconds."""
    progress = Progress(app_id, min(limit or data.RECORDS, data.RECORDS))
    async with Client(app_id) as client:
        known = await client.handled() or sum((await client.backlog()).values())
        if known:
            print("fed before: the agents are only asked what they know")
        with View(progress) as view:
            job = Job(client, None, progress, view, limit)
            return await job.run(feed=not known), job.seconds


def main() -> int:
    """Run the command line; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.flights.check", description=__doc__)
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N departures; the same N each time")
    limit = parser.parse_args().limit
    try:
        verdict, seconds = asyncio.run(check(os.environ.get("ROOKERY_APP_ID") or "flights", limit))
    except (RookeryError, KafkaError, Stalled, data.DataMissing) as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    report(verdict, seconds)
    return 0 if verdict.ok else 1


if __name__ == "__main__":
    sys.exit(main())
