"""How long a broker may keep a fetch of aiokafka waiting, which has one under way to each broker and no other.

What the request under way does not ask for waits until it is answered: partitions whose last records are not taken yet,
and those without a position, because they are being recovered. With Faust's 1.5 seconds a partition that was full, or
new, stood still so long while the others had nothing.
"""

from typing import Any

# Milliseconds that a broker without records waits before it answers a request for all partitions. A rebalance has to
# wait for that answer, too, since requests of a connection are answered in turn.
WAIT_MS = 250
# The same while some are left out: their turn comes soon.
PARTLY_WAIT_MS = 20
# With more than a hundred partitions it is longer, since a request for many costs both sides milliseconds.
PARTITIONS_PER_MS = 5
# While records of a partition are not taken, nothing is asked for of the others on its broker for so long; seconds.
BACKOFF = 0.02


def hasten(fetcher: Any) -> None:
    """Make the fetcher of a consumer of aiokafka ask for short waits while it leaves out partitions."""
    choose = fetcher._get_actions_per_node
    fetcher._prefetch_backoff = BACKOFF

    def hastened(assignment: Any) -> Any:
        partly = bool(fetcher._records) or not all(
            assignment.state_value(tp).has_valid_position for tp in assignment.tps
        )
        short = max(PARTLY_WAIT_MS, min(len(assignment.tps) // PARTITIONS_PER_MS, WAIT_MS))
        fetcher._fetch_max_wait_ms = short if partly else WAIT_MS
        return choose(assignment)

    fetcher._get_actions_per_node = hastened
