"""What an agent in memory takes, beyond what it takes while it is idle."""

from __future__ import annotations

from functools import partial

from bench.harness import Figures, Harness, Void
from bench.processes import application, worker
from bench.workload import names, prefill, records

AGENTS = 20_000
PASSIVATE_SECONDS = 3_600
"""Longer than a run: the worker says itself when they have idled enough."""


async def _live(h: Harness, agents: int) -> Figures:
    async with application(h.broker, 4) as settings:
        await prefill(h.broker, f"{settings.app_id}.inbox.normal", records(agents, 4, names(agents)), 4)
        given = {"ROOKERY_PASSIVATE_AFTER": PASSIVATE_SECONDS, "ROOKERY_ACTIVATIONS_MAX": 2 * agents}
        async with worker(settings, "bench.live_worker", BENCH_COUNT=agents, **given) as running:
            figures = await running.result()
    if figures["live"] != agents or figures["left"] or figures["agents"] != agents:
        raise Void(f"{figures['live']:.0f} of {agents} agents were live, then {figures['left']:.0f}")
    return figures


async def live_agents(h: Harness) -> None:
    """Traced memory of a worker after one turn of each of 20,000 agents, less the same when all are passivated."""
    agents = h.count(AGENTS)
    runs = await h.interleaved({"live agents": partial(_live, h, agents)})
    h.record("live_agent_bytes", [run["bytes"] for run in runs["live agents"]], agents=agents)
