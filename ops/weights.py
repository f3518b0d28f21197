"""How much this node can take: one weight from what is free of its processor, memory and network.

    weight = alpha * cpu + beta * memory + gamma * network        each term from 0 to 1, alpha + beta + gamma = 1

In a container the limits of its control group count, not the host. A source that fails counts as the average of the
others and is reported. Terms are smoothed, and a `Band` keeps small changes from moving partitions.
"""

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import psutil

# A worker that is full still counts a little: only one that is drained gives everything away.
WEIGHT_MIN: Final = 0.05
# Control groups write "no limit" as a number near 2**63.
UNLIMITED_BYTES: Final = 1 << 60

Source = Callable[[], float]


class Node:
    """What is free of this node, or of the container around this process, from 0 to 1."""

    def __init__(
        self, network_mbit: float | None = None, root: Path = Path("/sys/fs/cgroup"), clock: Source = time.monotonic
    ) -> None:
        """`network_mbit` is the bandwidth when the network cards do not tell it, Mbit/s."""
        self._root = root
        self._clock = clock
        self._network_mbit = network_mbit
        self._cpu_seen = (clock(), self._cpu_used())
        self._net_seen = (clock(), (0, 0))
        with contextlib.suppress(Exception):  # what can't be read says so when it is asked
            self._net_seen = (clock(), _net_bytes())
            psutil.cpu_percent()  # the next call tells what was used since this one

    def sources(self) -> dict[str, Source]:
        """By name."""
        return {"cpu": self.cpu, "mem": self.mem, "net": self.net}

    def cpu(self) -> float:
        """The idle share since the last call."""
        cores, used, now = self._cores(), self._cpu_used(), self._clock()
        if cores is None or used is None:
            return 1 - psutil.cpu_percent() / 100
        (since, before), self._cpu_seen = self._cpu_seen, (now, used)
        if before is None or now <= since:
            raise OSError("the time that the control group has used is not known yet")
        return 1 - (used - before) / ((now - since) * cores)

    def mem(self) -> float:
        """The share of memory that can be had."""
        host = psutil.virtual_memory()
        limit, used = self._memory()
        if limit is None or limit >= min(host.total, UNLIMITED_BYTES):
            return float(host.available / host.total)
        return min(1 - used / limit, host.available / limit)

    def net(self) -> float:
        """The share of the bandwidth that was not used since the last call, in the busier direction."""
        now, counted = self._clock(), _net_bytes()
        (since, before), self._net_seen = self._net_seen, (now, counted)
        mbit = self._network_mbit or _nic_mbit()
        if not mbit:
            raise OSError("the network cards do not tell their speed: set ROOKERY_NETWORK_MBIT")
        if now <= since:
            raise OSError("no time has passed")
        busiest = max(after - earlier for after, earlier in zip(counted, before, strict=True))
        return 1 - busiest * 8 / 1e6 / (now - since) / mbit

    # -- control groups, version 2 first ------------------------------------------------------------------------------

    def _read(self, name: str) -> str | None:
        try:
            return (self._root / name).read_text().strip()
        except OSError:
            return None

    def _cores(self) -> float | None:
        """How many processors the control group may use; None for all."""
        if (both := self._read("cpu.max")) is not None:
            quota, _, period = both.partition(" ")
            return None if quota == "max" else int(quota) / int(period)
        quota, period = (self._read(f"cpu/cpu.cfs_{name}_us") or "-1" for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 and int(period) > 0 else None

    def _cpu_used(self) -> float | None:
        """Seconds of processor time that the control group has used."""
        for line in (self._read("cpu.stat") or "").splitlines():
            if line.startswith("usage_usec "):
                return int(line.split()[1]) / 1e6
        used = self._read("cpuacct/cpuacct.usage")
        return None if used is None else int(used) / 1e9

    def _memory(self) -> tuple[int | None, int]:
        """Limit and use of the control group in bytes; caches that can be dropped do not count."""
        for limit_name, used_name, folder in (
            ("memory.max", "memory.current", ""),
            ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/"),
        ):
            limit, used = self._read(limit_name), self._read(used_name)
            if limit is None or used is None:
                continue
            if limit == "max":
                return None, 0
            lines = (self._read(f"{folder}memory.stat") or "").splitlines()
            cached = next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)
            return int(limit), int(used) - cached
        return None, 0


def _net_bytes() -> tuple[int, int]:
    counted = psutil.net_io_counters(nowrap=True)
    return counted.bytes_sent, counted.bytes_recv


def _nic_mbit() -> float:
    """Of the fastest card that is up; 0 if none tells, as in most containers."""
    return float(
        max((nic.speed for name, nic in psutil.net_if_stats().items() if nic.isup and name != "lo"), default=0)
    )


class Weigher:
    """Makes one weight of the terms, each smoothed."""

    def __init__(self, coefficients: Mapping[str, float], sources: Mapping[str, Source], smoothing: float) -> None:
        """`smoothing` is the seconds in which a change shows by two thirds."""
        self.terms: dict[str, float] = {}
        self.failures: dict[str, str] = {}  # sources that failed last time, and why
        self._coefficients = coefficients
        self._sources = sources
        self._smoothing = smoothing
        self._sampled_at: float | None = None

    def sample(self, now: float) -> float:
        """The weight at `now`, monotonic seconds."""
        before = self._sampled_at
        new = 1.0 if before is None else 1 - math.exp(-(now - before) / self._smoothing)
        self._sampled_at = now
        for name, source in self._sources.items():
            try:
                term = float(min(1.0, max(0.0, source())))
            except Exception as error:  # whatever a platform does not have
                self.failures[name] = str(error) or repr(error)
                self.terms.pop(name, None)
                continue
            self.failures.pop(name, None)
            self.terms[name] = term if name not in self.terms else self.terms[name] + new * (term - self.terms[name])
        known = sum(self._coefficients[name] for name in self.terms)
        total = sum(self._coefficients[name] * term for name, term in self.terms.items())
        average = total / known if known else 0.5
        return max(WEIGHT_MIN, total + average * (1 - known))


class Band:
    """Hysteresis: the weight in force follows the measured one only past a band, and not too often."""

    def __init__(self, width: float, cool_down: float) -> None:
        """`width` is a share of the weight in force, `cool_down` seconds."""
        self.value: float | None = None  # the weight in force
        self._width = width
        self._cool_down = cool_down
        self._changed_at = 0.0

    def look(self, weight: float, now: float) -> bool:
        """Whether the weight in force changes to this one at `now`; the first is taken as it is and no change."""
        if self.value is None:
            self.value, self._changed_at = weight, now
            return False
        if abs(weight - self.value) <= self._width * self.value or now - self._changed_at < self._cool_down:
            return False
        self.value, self._changed_at = weight, now
        return True
