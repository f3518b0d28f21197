"""Where the microseconds of a durable turn go, sampled in a worker: the picture of docs/performance.md.

    python -m bench.where

Runs a worker as it is installed, and one on the Python twins of what is compiled. A sample counts for the innermost
Python function, so what is compiled counts for the Python that called it.
"""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
from collections import Counter

import psutil

from bench.harness import Figures
from bench.machine import broker_pid
from bench.processes import application, worker
from bench.report import DOCS, GOOD, PLAIN
from bench.workload import names, prefill, records
from rookery.ops import servers

PICTURE = DOCS / "performance.png"
COUNT = {"compiled": 800_000, "pure Python": 400_000}
SECONDS, RATE = 3, 400
AFTER_CPU_SECONDS = 2.0
"""Until a worker has started and is at work."""
# The first part whose pattern fits the file, or "function file".
PARTS = (
    ("fetching, reading, admitting", r"consumer/|fetched|reader|inbound|progress|window|^(admit|deliver) |faust/"),
    (
        "journal, outbox, commits",
        r"partition|outbox|finishing|store|journal|fold|shipping|ownership|commits|core/loops|seal",
    ),
    ("Kafka client, sockets, threads", r"aiokafka/|asyncio/|kafka/|mode/|uvloop|threading"),
    ("metrics", r"ops/"),
    ("turn: handler, state, messages, reply", r"agents/|engine/|schemas/|core/|bench/workload|msgspec"),
)


async def sampled(broker: str, count: int, **environment: object) -> tuple[Figures, Counter[str]]:
    """The figures of a run, and how many samples each part has."""
    async with application(broker, 4) as settings:
        messages = records(count, settings.partitions, names(), replies=True)
        await prefill(settings.broker, f"{settings.app_id}.inbox.normal", messages, settings.partitions)
        given = {"BENCH_COUNT": count, "BENCH_REPLIES": count, "BENCH_BROKER_PID": broker_pid(broker), "BENCH_GATE": 1}
        with tempfile.NamedTemporaryFile() as out:
            async with worker(settings, "bench.worker", **given, **environment) as running:
                process = psutil.Process(running.process.pid)
                while process.cpu_times().user < AFTER_CPU_SECONDS:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                spy = await asyncio.create_subprocess_exec(
                    *("py-spy", "record", "--nonblocking", "--format", "raw", "--output", out.name),
                    *("--pid", str(process.pid), "--duration", str(SECONDS), "--rate", str(RATE)),
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.DEVNULL,
                )
                figures = await running.result()
                await spy.wait()
            return figures, counted(out.read().decode())


def counted(stacks: str) -> Counter[str]:
    """Samples by part, from lines of frames and a count."""
    found: Counter[str] = Counter()
    for line in stacks.splitlines():
        frames, _, samples = line.rpartition(" ")
        match = re.fullmatch(r"(.*) \((.*):\d+\)", frames.split(";")[-1])
        if match is None:
            continue
        function, file = match[1].rpartition(".")[2], match[2].replace("rookery/streams/", "")
        for part, pattern in PARTS:
            if re.search(pattern, file) or re.search(pattern, f"{function} {file}"):
                found[part] += int(samples)
                break
    return found


def draw(runs: dict[str, dict[str, float]]) -> None:
    """Bars of microseconds by part, one below the other."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 4.2), layout="constrained")
    parts = [part for part, _ in PARTS]
    for number, (name, colour) in enumerate((("pure Python", PLAIN), ("compiled", GOOD))):
        values = [runs[name][part] for part in parts]
        places = [len(parts) - place - 0.38 * number for place in range(len(parts))]
        axes.barh(places, values, height=0.36, color=colour, label=f"{name}: {sum(values):.1f} us a turn")
        for place, value in zip(places, values, strict=True):
            axes.text(value, place, f" {value:.1f}", va="center", fontsize=9)
    axes.set_yticks([len(parts) - place - 0.19 for place in range(len(parts))], parts)
    axes.set_xlabel("processor time of the worker for a durable turn, us")
    axes.legend(frameon=False, loc="center right")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(PICTURE, dpi=120, metadata={"Software": None})
    plt.close(figure)


async def main(broker: str) -> None:
    """Sample both, print and draw."""
    runs: dict[str, dict[str, float]] = {}
    for name, count in COUNT.items():
        figures, samples = await sampled(broker, count, ROOKERY_PURE=int(name != "compiled"))
        scale = figures["cpu_us"] / samples.total()
        runs[name] = {part: samples[part] * scale for part, _ in PARTS}
        told = "".join(f"\n  {value:5.2f} us  {part}" for part, value in runs[name].items())
        sys.stdout.write(f"{name}: {figures['cpu_us']:.1f} us a turn, {figures['per_s']:,.0f}/s{told}\n")
    draw(runs)


if __name__ == "__main__":
    with servers.ensure(kafka=True) as servers_found:
        asyncio.run(main(servers_found.broker))
