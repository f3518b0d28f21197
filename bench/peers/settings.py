"""What the peers are set to; each run prints it."""

from typing import Any

FAUST_STOCK: dict[str, Any] = {"table_standby_replicas": 0}
"""Standby copies would read everything twice; the rest is as it comes."""

FAUST_TUNED: dict[str, Any] = {
    **FAUST_STOCK,
    "producer_linger": 0.05,
    "producer_max_batch_size": 900_000,
    "broker_max_poll_records": 5_000,
    "stream_buffer_maxsize": 16_384,
    "broker_commit_interval": 2.8,
    "broker_commit_every": 100_000,
}
"""Larger batches, polls and buffers, and fewer commits. Chosen by what each setting does, not found by a search."""

QUIX_VERSION = "3.28.1"
