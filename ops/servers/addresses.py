"""Where servers might already be: the environment first, then what ``make up`` wrote; and whether they answer there."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

BROKER_VARIABLES: Final = ("ROOKERY_BROKER", "BUS_ADDRESS", "KAFKA_BOOTSTRAP_SERVERS")
REDIS_VARIABLES: Final = ("ROOKERY_REDIS_URL", "REDIS_URL")
ANSWER_TIMEOUT: Final = 2.0
"""Seconds a server on this machine may take to answer one small request."""


def given(variables: tuple[str, ...], environ: Mapping[str, str] | None = None) -> tuple[str, str] | None:
    """Return the first of the variables that is set and not empty, as (variable, value)."""
    environ = os.environ if environ is None else environ
    return next(((name, environ[name].strip()) for name in variables if environ.get(name, "").strip()), None)


def bootstrap(address: str) -> str:
    """Return a broker address as Kafka clients want it: no scheme, servers separated by commas."""
    parts = (part.strip().removeprefix("kafka://").rstrip("/") for part in address.replace(";", ",").split(","))
    return ",".join(part for part in parts if part)


def written(path: Path) -> dict[str, str]:
    """Return the addresses in a ``servers.json`` (``broker``, ``redis_url``); a missing or broken file holds none."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {name: value for name in ("broker", "redis_url") if isinstance(value := content.get(name), str)}


def endpoints(address: str, default_port: int) -> list[tuple[str, int]]:
    """Split ``host:port`` pairs separated by commas, alone or in a URL.

    Raises:
        ValueError: no host, or a port that is no number. The text leaves out the address: it may hold a password.
    """
    pairs = []
    if "://" in address:  # without user, password and path
        address = address.partition("://")[2].partition("/")[0].partition("?")[0].rpartition("@")[2]
    for part in address.split(","):
        try:
            url = urlsplit(f"//{part}")
            host, port = url.hostname, url.port
        except ValueError:
            raise ValueError("a port must be a number up to 65535") from None
        if not host:
            raise ValueError("a host is missing")
        pairs.append((host, port or default_port))
    return pairs


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach a server that listens on this host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_remote(address: str, default_port: int) -> bool:
    """Tell whether any of the servers may be on another machine."""
    try:
        return not all(is_loopback(host) for host, _ in endpoints(address, default_port))
    except ValueError:
        return True


def reachable(address: str, default_port: int, timeout: float = 5.0) -> bool:
    """Tell whether any of the servers accepts a connection within ``timeout`` seconds each."""
    for host, port in endpoints(address, default_port):
        try:
            socket.create_connection((host, port), timeout).close()
        except OSError:
            continue
        return True
    return False


def kafka_answers(broker: str) -> bool:
    """Tell whether a plain-text Kafka at ``host:port`` lists a live broker, so that topics can be made there."""
    # Metadata v1 for no topic at all; a broker that is still fenced does not list itself yet.
    request = struct.pack(">hhih", 3, 1, 1, -1) + struct.pack(">i", 0)
    try:
        with socket.create_connection(endpoints(broker, 9092)[0], ANSWER_TIMEOUT) as connection:
            connection.settimeout(ANSWER_TIMEOUT)
            connection.sendall(struct.pack(">i", len(request)) + request)
            (size,) = struct.unpack(">i", _read(connection, 4))
            if not 8 <= size <= 1 << 20:
                return False
            correlation, brokers = struct.unpack(">ii", _read(connection, size)[:8])
    except (OSError, ValueError):
        return False
    return bool(correlation == 1 and brokers > 0)


def redis_answers(url: str) -> bool:
    """Tell whether a Redis at this URL speaks its protocol (asking for a password is an answer too)."""
    try:
        with socket.create_connection(endpoints(url, 6379)[0], ANSWER_TIMEOUT) as connection:
            connection.settimeout(ANSWER_TIMEOUT)
            connection.sendall(b"PING\r\n")
            return _read(connection, 5).startswith((b"+PONG", b"-NOAU", b"-DENI"))
    except (OSError, ValueError):
        return False


def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        if not chunk:
            raise ConnectionError("the connection was closed")
        data += chunk
    return data
