"""Every row of the table, and what measures it."""

from __future__ import annotations

from bench import asks, fleet, live, recovery, scale, seed, soak, starts, turns
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
        "recovery_large",
        recovery.recovery_large,
        (
            Row("recovery_100k_48_s", "s", "lower", "100,000 agents on 48 partitions"),
            Row("recovery_1m_s", "s", "lower", "1,000,000 agents on 12 partitions"),
        ),
    ),
    Experiment(
        "live_agents",
        live.live_agents,
        (Row("live_agent_bytes", "B", "lower", "What a live agent takes beyond an idle one"),),
    ),
    Experiment(
        "raw_codec",
        turns.raw_codec,
        (Row("durable_turn_vs_raw_codec", "ratio", "higher", "Durable turns against a raw loop with our codec"),),
    ),
    Experiment(
        "scale_agents",
        scale.scale_agents,
        (Row("scale_agents", "ratio", "lower", "1,000 to 1,000,000 agents, fastest over slowest", 1.5),),
    ),
    Experiment(
        "scale_partitions",
        scale.scale_partitions,
        (Row("scale_partitions", "ratio", "lower", "4 to 192 partitions, fastest over slowest", 1.5),),
    ),
    Experiment(
        "mixed_sizes",
        scale.mixed_sizes,
        tuple(
            Row(name, "MB/s", "higher", f"Payload of {payload:,} B, state of {state:,} B, together")
            for name, (payload, state) in scale.SIZES.items()
        ),
    ),
    Experiment(
        "fleet",
        fleet.fleet,
        tuple(
            Row(
                f"fleet_{kind}_{size}_per_s",
                "turns/s",
                "higher",
                f"Fleet of {size}, turns that {kind} {what}",
            )
            for kind, what in (("wait", "5 ms"), ("burn", "0.2 ms of processor time"))
            for size in fleet.SIZES
        ),
    ),
    Experiment(
        "fleet_join",
        fleet.fleet_join,
        (Row("fleet_join_s", "s", "lower", "From starting a worker to its share of a loaded fleet's turns"),),
    ),
    Experiment(
        "soak",
        soak.soak,
        (
            Row("soak_memory_mb_per_min", "MB/min", "lower", "Growth of the worker's memory after the first quarter"),
            Row(
                "soak_p99_drift",
                "ratio",
                "lower",
                "p99 of the last quarter over that of the second, over the same of a raw produce beside it",
            ),
            Row("soak_gc_longest_ms", "ms", "lower", "Longest pause of the garbage collector"),
            Row("soak_journal_mb_per_min", "MB/min", "lower", "Growth of the journal"),
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
