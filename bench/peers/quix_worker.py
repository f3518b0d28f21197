"""The same turns in Quix Streams; runs in an environment of its own, where nothing of ours is installed.

python quix_worker.py BROKER SOURCE REPLIES APP_ID COUNT GUARANTEE STATE_DIR
"""

import json
import sys
import time
from typing import Any

from quixstreams import Application

PAD = "x" * 60


def main(*arguments: str) -> None:
    broker, source, replies, app_id, count, guarantee, state_dir = arguments
    clock: dict[str, float] = {}
    app = Application(
        broker_address=broker,
        consumer_group=app_id,
        auto_offset_reset="earliest",
        processing_guarantee=guarantee,
        state_dir=state_dir,
        producer_extra_config={"acks": "all", "enable.idempotence": True, "batch.size": 900_000},
    )

    def turn(_: bytes, state: Any) -> bytes:
        if not clock:
            clock.update(start=time.perf_counter(), cpu=time.process_time())
        total = state.get("total", {"count": 0, "pad": PAD})
        total["count"] += 1
        state.set("total", total)
        return f"{total['count']} {PAD}".encode()

    frame = app.dataframe(app.topic(source, key_deserializer="bytes", value_deserializer="bytes"))
    frame = frame.apply(turn, stateful=True)
    frame.to_topic(app.topic(replies, key_serializer="bytes", value_serializer="bytes"))
    app.run(count=int(count))  # returns after the last checkpoint is committed and flushed
    seconds, cpu = time.perf_counter() - clock["start"], time.process_time() - clock["cpu"]
    result = {
        "per_s": int(count) / seconds,
        "seconds": seconds,
        "count": int(count),
        "cpu_us": cpu / int(count) * 1e6,
    }
    print("RESULT " + json.dumps(result), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
