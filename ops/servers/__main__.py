"""``python -m rookery.ops.servers``: the same servers from a shell or a Makefile."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from types import FrameType
from typing import Final

from rookery.ops.servers import addresses, lifecycle
from rookery.ops.servers.process import ServersError, launch

GROUP_GRACE: Final = 5.0
"""Seconds that processes which the command left behind get between SIGTERM and SIGKILL."""
PATIENCE: Final = 3
"""The third Ctrl-C does not ask any more."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # a quiet start, see the Makefile; from here on we clean up
        signal.signal(signal.SIGINT, signal.default_int_handler)
    options = _parser().parse_args(arguments)
    try:
        return int({"up": _up, "down": _down, "status": _status, "run": _run}[options.verb](options))
    except ServersError as error:
        print(f"servers: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("servers: interrupted, nothing is left running", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m rookery.ops.servers", description="local Kafka and Redis")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, text in (
        ("up", "start servers that stay until `down`"),
        ("down", "stop them and remove their data"),
        ("status", "tell what is configured, what is up, and whether it answers"),
        ("run", "run a command with servers: borrowed ones, else local ones that end with it"),
    ):
        sub = verbs.add_parser(verb, help=text, description=text)
        if verb in ("up", "run"):
            sub.add_argument("--kafka", action="store_true", help="Kafka; without --kafka and --redis: both")
            sub.add_argument("--redis", action="store_true", help="Redis")
        if verb == "run":
            sub.add_argument("command", nargs="+", help="the command and its arguments, after --")
    return parser


def _say(line: str) -> None:
    print(f"servers: {line}", file=sys.stderr, flush=True)


def _up(options: argparse.Namespace) -> int:
    neither = not (options.kafka or options.redis)
    servers = lifecycle.up(kafka=options.kafka or neither, redis=options.redis, progress=_say)
    if neither:
        try:
            servers = lifecycle.up(kafka=False, redis=True, progress=_say)
        except ServersError as error:  # nobody asked for Redis by name, and most parts need none
            _say(f"no Redis: {error}")
    for name, value in servers.environ().items():
        print(f"{name}={value}")
    return 0


def _down(_: argparse.Namespace) -> int:
    ended = lifecycle.down(progress=_say)
    _say(f"{ended} stopped" if ended else "none was up")
    return 0


def _status(_: argparse.Namespace) -> int:
    """Exit code 0 if a Kafka answers, 3 if none does (as service managers do for "not running")."""
    known = addresses.written(lifecycle.HOME / "servers.json")
    found = {}
    for title, name, variables, answers in (
        ("kafka", "broker", addresses.BROKER_VARIABLES, addresses.kafka_answers),
        ("redis", "redis_url", addresses.REDIS_VARIABLES, addresses.redis_answers),
    ):
        if configured := addresses.given(variables):
            # Only whether it listens: it may want TLS or a password. The address may carry one, so it is not shown.
            found[title] = _listens(title, configured[1])
            print(f"{title}: given by {configured[0]}, {'listens' if found[title] else 'does not answer'}")
        elif name in known:
            found[title] = answers(known[name])
            print(f"{title}: {known[name]}, {'up' if found[title] else 'does not answer; `make down` cleans up'}")
        else:
            print(f"{title}: none is up")
    return 0 if found.get("kafka") else 3


def _listens(title: str, address: str) -> bool:
    try:
        if title == "kafka":
            return addresses.reachable(addresses.bootstrap(address), 9092)
        return addresses.reachable(address, 6379)
    except ValueError:
        return False


def _run(options: argparse.Namespace) -> int:
    neither = not (options.kafka or options.redis)
    with lifecycle.ensure(kafka=options.kafka or neither, redis=options.redis or neither, progress=_say) as servers:
        return _command(options.command, servers.environ())


def _command(command: list[str], environ: dict[str, str]) -> int:
    """Run a command, hand every signal on to it, end what it leaves behind, and return its exit code.

    The command has a session of its own: a terminal's Ctrl-C comes to us alone, and is handed on exactly once.
    """
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in signals}
    child: subprocess.Popen[bytes] | None = None
    received: list[int] = []

    def hand_on(number: int, _: FrameType | None = None) -> None:
        received.append(number)
        if child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL if len(received) >= PATIENCE else number)

    for number in signals:
        signal.signal(number, hand_on)
    try:
        child = launch(command, dies_with_us=signal.SIGTERM, env={**os.environ, **environ})
        if received:  # came while there was no child to hand it to
            os.killpg(child.pid, received[-1])
        code = child.wait()
        return code if code >= 0 else 128 - code
    finally:
        if child is not None:
            _end_group(child.pid)
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_group(group: int) -> None:
    deadline = time.monotonic() + GROUP_GRACE
    number = signal.SIGTERM
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.killpg(group, number)
            while time.monotonic() < deadline:
                os.killpg(group, 0)
                time.sleep(0.02)
            if number is signal.SIGKILL:
                return
            number, deadline = signal.SIGKILL, deadline + 1.0


if __name__ == "__main__":
    sys.exit(main())
