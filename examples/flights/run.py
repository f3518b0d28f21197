"""The main job from start to end: `python -m examples.flights.run [--limit N] [--workers 2]`; needs a running Kafka.

Ends with `OK <turns> turns in <s> s, <rate>/s, 0 lost, 0 doubled` and exit code 0, or with the differences and 1.
Ctrl-C at any moment ends everything: exit code 130.
"""

import os
import signal
import sys


def leave(number: int, _: object = None) -> None:
    """End at once and in silence; right as long as there are no workers."""
    os._exit(128 + number)


def main() -> int:
    """Run the command line; returns its exit code."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in signals:
        signal.signal(number, leave)
    # Loading all this takes a second, in which somebody may press Ctrl-C.
    import asyncio

    from examples.flights.conductor import conduct, options

    code = asyncio.run(conduct(options()))
    for number in signals:
        signal.signal(number, leave)
    return code


if __name__ == "__main__":
    sys.exit(main())
