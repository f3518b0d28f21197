"""The main job from start to end: `python -m examples.flights.run [--limit N] [--workers 2]`; needs a running Kafka.

Ends with `OK <turns> turns in <s> s, <rate>/s, 0 lost, 0 doubled` and exit code 0, or with the differences and 1.
Ctrl-C at any moment ends everything: exit code 130.
"""

import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import argparse

INTERRUPTED = 128 + signal.SIGINT


def leave(number: int, _: FrameType | None = None) -> NoReturn:
    """End at once and in silence; right as long as there are no workers."""
    os._exit(128 + number)


def main() -> int:
    """Run the command line; returns its exit code."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in signals:
        signal.signal(number, leave)
    # Loading all this takes a second, in which somebody may press Ctrl-C.
    import asyncio

    from examples.flights.conductor import conduct

    code = asyncio.run(conduct(_options()))
    for number in signals:
        signal.signal(number, leave)
    return code


def _options() -> "argparse.Namespace":
    import argparse

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


if __name__ == "__main__":
    sys.exit(main())
