"""Every row of the table, and what measures it."""

from __future__ import annotations

from bench import asks, recovery, seed, starts, turns
from bench.harness import Experiment, Row
from bench.peers import beside

EXPERIMENTS = (
    Experiment(
        "durable_turn",
        turns.durable_turn,
        (
            Row("durable_turn_vs_raw", "ratio", "higher", "Durable turns against the raw loop", 0.35, 0.5),
            Row("durable_turn_per_s", "turns/s", "higher", "Durable turns of one worker"),
            Row("cpu_us_per_turn", "us", "lower", "Processor time of the worker for a durable turn"),
            Row("raw_cpu_us_per_message", "us", "lower", "Processor time of the raw loop for a message"),
        ),
        quick=True,
    ),
    Experiment(
        "slow_handlers",
        turns.slow_handlers,
        (Row("slow_handlers_vs_ideal", "ratio", "lower", "200 agents that wait, against the ideal", 1.3, 1.1),),
        quick=True,
    ),
    Experiment(
        "hot_agent",
        turns.hot_agent,
        (Row("hot_agent_vs_even", "ratio", "higher", "One hot agent against 1,000 even ones", 0.3, 0.6),),
        quick=True,
    ),
    Experiment(
        "asks",
        asks.asks,
        (
            Row("ask_p50_vs_raw", "ratio", "lower", "One ask at a time against a raw round trip, median", 2.0, 1.4),
            Row("ask_p99_vs_raw", "ratio", "lower", "The same, 99th percentile"),
            Row("asks_64_vs_raw", "ratio", "higher", "Rate of 64 asks at once against raw round trips", 0.5, 0.7),
            Row("asks_64_p99_vs_raw", "ratio", "lower", "The same, 99th percentile"),
        ),
        quick=True,
    ),
    Experiment("start", starts.start, (Row("start_s", "s", "lower", "From starting a worker to its first turn"),)),
    Experiment(
        "seed_table",
        seed.seed_table,
        tuple(
            Row(f"seed_{agents}_mean_ms", "ms", "lower", f"{agents} agents at {rate:,}/s, mean until committed", bar)
            for agents, rate, bar in seed.POINTS
        ),
    ),
    Experiment(
        "state_only",
        turns.state_only,
        (Row("state_only_per_s", "turns/s", "higher", "Turns that change state and send nothing"),),
    ),
    Experiment(
        "recovery",
        recovery.recovery,
        (
            Row("recovery_100k_s", "s", "lower", "Recovering 100,000 agents, store in memory"),
            Row("recovery_100k_rocksdb_s", "s", "lower", "The same after a restart, store on disk"),
            Row("promote_100k_s", "s", "lower", "The same from a standby copy"),
            Row("idle_agent_bytes", "B", "lower", "Memory of an idle agent with 200 B of state"),
        ),
    ),
    Experiment(
        "peers",
        beside.peers,
        (
            Row("durable_turn_vs_kstreams_eos", "ratio", "higher", "Against Kafka Streams, exactly once", 1.0, 1.5),
            Row("durable_turn_vs_tuned_faust", "ratio", "higher", "Against Faust, tuned", 10, 20),
            *(Row(f"{name}_per_s", "records/s", "higher", title) for name, title in beside.TITLES.items()),
        ),
    ),
)
