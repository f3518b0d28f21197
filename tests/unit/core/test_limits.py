"""A commit batch must fit its topic whatever the progress looks like: one refused for ever is a stuck partition."""

from __future__ import annotations

import pytest

from rookery.ops.settings import Settings
from rookery.ops.settings_rules import RECORD_OVERHEAD_BYTES
from rookery.streams.core.batch import Finished, Limits
from rookery.streams.core.fold import Recovered
from rookery.streams.core.mailbox import Mailbox
from rookery.streams.core.partition import Partition
from rookery.streams.core.store import MemoryStore


@pytest.mark.parametrize("lanes", [1, 3])
def test_a_batch_fits_its_topic_however_torn_the_progress_is(lanes: int) -> None:
    """Every second record of a full window in flight: the done ranges are part of the batch and have to be reserved."""
    known = Settings.load(app_id="a", partitions=2)
    limits = Limits(known.batch_bytes_max, 100_000, known.window_max, known.outbox_ring, 0)
    partition = Partition(0, 2, Recovered(0, None, MemoryStore(), [], {}, 0), [(0, 10**6)] * 3, limits)
    for lane in range(lanes):
        for offset in range(known.window_max):
            partition.lanes[lane].admit_outside("")
            if offset % 2:
                partition.finish(Finished(None, lane, offset, None, ()))
    agent = Mailbox("A/1", 0)
    partition.lanes[2].admit_outside("")
    partition.finish(Finished(agent, 2, partition.lanes[2].next - 1, b"x" * (known.batch_bytes_max - 1_000), ()))
    while (batch := partition.build()) is not None:
        size = sum(len(key) + len(value or b"") for key, value in batch.records.items())
        assert size <= known.batch_bytes_max + RECORD_OVERHEAD_BYTES
        partition.acked(partition.last + 1)
