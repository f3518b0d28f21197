"""Tells the planes about their departures: `python -m examples.flights.feed [--limit N]`."""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Iterator

from examples.flights import data
from examples.flights.messages import Departure
from rookery import Client, Priority, RookeryError


def messages(limit: int | None = None) -> Iterator[tuple[str, Departure, Priority]]:
    """What to send, in the order of the file: target, message, priority."""
    for departure in data.departures(limit):
        yield f"Plane/{departure.tail}", departure, data.priority(departure)


async def feed(app_id: str, limit: int | None) -> None:
    """Send everything, then say how much that was."""
    async with Client(app_id) as client:
        started = time.monotonic()
        sent = await client.tell_many(messages(limit))
        seconds = time.monotonic() - started
    print(f"{sent:,} departures sent to {app_id} in {seconds:.1f} s")


def main() -> int:
    """Run the command line; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.flights.feed", description=__doc__)
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N departures")
    limit = parser.parse_args().limit
    try:
        asyncio.run(feed(os.environ.get("ROOKERY_APP_ID") or "flights", limit))
    except (RookeryError, data.DataMissing) as error:
        print(f"feed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
