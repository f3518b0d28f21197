"""The machine below a measurement: its facts, the processor time of the broker, and what others use meanwhile."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

import psutil

from rookery.schemas import native

FOREIGN_CORES_MAX = 0.25
"""Cores that processes other than the measured ones may use on average during a run; more of it, and it is repeated."""


def facts() -> dict[str, Any]:
    """What a reader needs to compare figures: processor, memory, versions."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return {
        "processor": model or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "hot path": "compiled" if native.in_use() else "pure Python",
    }


def broker_pid(broker: str) -> int:
    """The process that listens at a broker's first address; 0 if it is not ours to see."""
    port = int(broker.split(",", maxsplit=1)[0].rpartition(":")[2])
    for process in psutil.process_iter(["name"]):
        if process.info["name"] != "java":
            continue
        try:
            sockets = process.net_connections("tcp")
        except psutil.Error:
            continue
        if any(s.status == psutil.CONN_LISTEN and s.laddr.port == port for s in sockets):
            return process.pid
    return 0


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used, 0 for one that is gone or unknown."""
    if not pid:
        return 0.0
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


class Watch:
    """Measures, from its making to `foreign`, what processes other than ours and the broker used."""

    def __init__(self, broker: int) -> None:
        self._broker = broker
        self._began = time.perf_counter()
        self._busy, self._ours = _busy(), self._used()

    def foreign(self) -> float:
        """Cores that others used on average so far."""
        busy, ours = _busy() - self._busy, self._used() - self._ours
        return max(0.0, (busy - ours) / (time.perf_counter() - self._began))

    def _used(self) -> float:
        me = psutil.Process()
        family = [me, *me.children(recursive=True)]
        total = 0.0
        for process in family:
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue
            total += times.user + times.system + times.children_user + times.children_system
        return total if self._broker in {process.pid for process in family} else total + cpu_seconds(self._broker)


def _busy() -> float:
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # counted in user already
    return float(sum(times) - idle - guests)
