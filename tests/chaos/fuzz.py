"""Damaged envelopes by the million: `python -m tests.chaos.fuzz [count] [seed]`.

Whatever the bytes, `decode` returns an envelope or raises an EnvelopeError, and nothing that was damaged is taken for
whole: a record that decodes is one whose bytes the fuzzer left as they were, or sealed with a CRC that fits.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter

from rookery.schemas.envelope import decode
from rookery.schemas.errors import EnvelopeError
from tests.chaos.wire import envelope_crc_fits
from tests.chaos.workload import poison

STACKED_MAX = 3
FRESH = 200  # records are made from one another: so many at once


def damage(rng: random.Random, good: bytes) -> bytes:
    """Bits flipped, bytes cut out, put in, repeated or exchanged, up to three times."""
    data = bytearray(good)
    for _ in range(rng.randrange(1, STACKED_MAX + 1)):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.randrange(1, 20))
        kind = rng.randrange(5)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at:end]
        elif kind == 2:
            data[at:at] = rng.randbytes(end - at)
        elif kind == 3:
            data[at:at] = data[at:end]
        else:
            data[at:end] = rng.randbytes(end - at)
    return bytes(data)


def fuzz(count: int, seed: int) -> tuple[Counter[str], int]:
    """What became of so many records, by error, and how many damaged ones were taken for whole."""
    rng = random.Random(seed)
    outcomes: Counter[str] = Counter()
    fooled = 0
    pool: list[bytes] = []
    for number in range(count):
        if number % 10_000 == 0:
            pool = [value for value in (poison(rng, "Clerk/1", number) for _ in range(FRESH)) if value]
        data = damage(rng, rng.choice(pool))
        try:
            decode(data)
        except EnvelopeError as error:
            outcomes[type(error).__name__] += 1
        else:
            outcomes["decoded"] += 1
            fooled += not envelope_crc_fits(data)
    return outcomes, fooled


def main(count: int = 1_000_000, seed: int = 1) -> int:
    started = time.perf_counter()
    outcomes, fooled = fuzz(count, seed)
    seconds = time.perf_counter() - started
    shares = ", ".join(f"{number:,} {name}" for name, number in outcomes.most_common())
    print(f"{'FAILED' if fooled else 'OK'} {count:,} records, seed {seed}, {seconds:.0f} s, 0 crashes: {shares}")
    return bool(fooled)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
