"""Faults as values: what is to happen, when, to whom, how often, and whether it did.

A seed stands for a plan, a list of these. `at` arms a fault; then it happens at once, or at the next request of a kind
(`on`) and there at a certain moment:

    asked ──(forth)──> landed ──(back)──> answered

An append of a lease that is not the newest has another moment, `stale`, right before it lands.
or, for crashes and freezes, at the `nth` step of a task from then on, which is any await of the whole engine.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

# Requests of a worker to the log and the group.
REQUESTS = ("acquire", "claim", "append", "end", "read", "bounds", "window", "ship", "confirm")
MOMENTS = ("asked", "landed", "answered")
# Faults begin within this time, virtual seconds.
FAULT_SECONDS = 6.0


@dataclass
class Fault:
    """One fault. `seconds` is how long or how late; `count` how often; `worker` -1 is whichever comes first."""

    kind: str
    at: float
    on: str = ""
    moment: str = ""
    worker: int = -1
    seconds: float = 0.0
    count: int = 1
    nth: int = 0
    fired: int = 0


class Plan:
    """The faults of one run, found by what triggers them."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = sorted(faults, key=lambda fault: fault.at)
        self.timed = [fault for fault in self.faults if not fault.on]
        self._armed: dict[tuple[str, str], list[Fault]] = {}
        for fault in self.faults:
            if fault.on:
                self._armed.setdefault((fault.on, fault.moment), []).append(fault)
        self.healed = False

    def take(self, on: str, moment: str, worker: int, now: float) -> Fault | None:
        """The fault that strikes here and now, if any; counts as fired."""
        faults = self._armed.get((on, moment))
        if faults is None or self.healed:
            return None
        for fault in faults:
            if fault.at > now:
                break
            if fault.fired < fault.count and fault.worker in {-1, worker}:
                fault.fired += 1
                return fault
        return None

    def fired(self) -> Counter[str]:
        """How often each kind of fault happened; those with a trigger by name and moment."""
        total: Counter[str] = Counter()
        for fault in self.faults:
            if fault.fired:
                total[" ".join(filter(None, (fault.kind, fault.on, fault.moment)))] += fault.fired
        return total


def plan(rng: random.Random, workers: int, partitions: int, forgetful: bool, fleeting: bool = False) -> Plan:
    """The faults of a seed. `forgetful` brokers may lose the epochs that fence old leases, `fleeting` inboxes delete
    records before they are handled."""
    makers = {
        _kill: 3, _freeze: 5, _lose: 4, _cut: 2, _fetch: 3, _compact: 3, _rebalance: 6, _forget: 4 if forgetful else 0,
        _retain: 6 if fleeting else 0,
    }  # fmt: skip
    chosen = rng.choices(list(makers), list(makers.values()), k=rng.randint(6, 30))
    faults = [maker(rng, rng.uniform(0.1, FAULT_SECONDS), rng.randrange(workers)) for maker in chosen]
    return Plan(faults)


def _kill(rng: random.Random, at: float, worker: int) -> Fault:
    return _somewhere(rng, Fault("kill", at, worker=worker, seconds=rng.choice([0.0, 0.05, 0.5, 1.5])))


def _freeze(rng: random.Random, at: float, worker: int) -> Fault:
    return _somewhere(rng, Fault("freeze", at, worker=worker, seconds=rng.choice([0.01, 0.2, 0.7, 1.5, 3.0])))


def _somewhere(rng: random.Random, fault: Fault) -> Fault:
    """At once, at any await, or around a request."""
    where = rng.random()
    if where < 0.3:
        fault.nth = rng.randint(1, 400)
    elif where < 0.8:
        # The claim is written and the lease used right after an assignment: both deserve more than their share.
        fault.on, fault.moment = rng.choice((*REQUESTS, "claim", "append", "append", "ship")), rng.choice(MOMENTS)
    return fault


def _lose(rng: random.Random, at: float, worker: int) -> Fault:
    """Requests that get lost or are answered into the void, land late, or are refused."""
    kind = rng.choice(["lose", "deafen", "deafen", "late", "late", "refuse"])
    on = rng.choice((*REQUESTS, "append", "append", "claim", "ship", "ship"))
    if kind == "late" and on not in {"append", "claim", "ship"}:
        on = "append"
    if kind == "refuse":
        on = rng.choice(["append", "ship"])
    return Fault(
        kind, at, on=on, worker=rng.choice([-1, worker]), seconds=rng.choice([0.1, 0.6, 1.0, 2.0]),
        count=rng.choice([1, 1, 2, 5]),
    )  # fmt: skip


def _cut(rng: random.Random, at: float, worker: int) -> Fault:
    """Nothing that a worker sends to agents arrives for a while: rings fill up."""
    return Fault("cut", at, worker=worker, seconds=rng.choice([0.2, 0.8, 2.0]))


def _fetch(rng: random.Random, at: float, worker: int) -> Fault:
    kind = rng.choice(["repeat", "jump", "hold"])
    return Fault(
        kind, at, on="fetch", worker=rng.choice([-1, worker]), seconds=rng.choice([0.01, 0.1, 0.5]),
        count=rng.randint(1, 8),
    )  # fmt: skip


def _compact(rng: random.Random, at: float, worker: int) -> Fault:
    on, moment = rng.choice([("", ""), ("claim", "landed"), ("read", "asked")])
    return Fault("compact", at, on=on, moment=moment)


def _rebalance(rng: random.Random, at: float, worker: int) -> Fault:
    """Ownership changes, often several in quick succession, so that notices overtake claims."""
    on, moment = rng.choice([("", ""), ("", ""), ("acquire", "answered"), ("append", "asked")])
    return Fault(
        "rebalance", at, on=on, moment=moment, seconds=rng.choice([0.001, 0.02, 0.3]), nth=rng.choice([1, 1, 2, 5])
    )


def _forget(rng: random.Random, at: float, worker: int) -> Fault:
    """A broker that does not know a newer lease any more, when an old one appends."""
    return Fault("forget", at, on="append", moment="stale", count=rng.choice([1, 3, 10]))


def _retain(rng: random.Random, at: float, worker: int) -> Fault:
    """Retention bites: while nobody fetches, right before somebody learns where the inbox begins, or after."""
    on, moment = rng.choice([("", ""), ("claim", "landed"), ("bounds", "asked"), ("bounds", "answered")])
    return Fault("retain", at, on=on, moment=moment)
