"""The kill table: one short run for each mutation, on one broker. `python -m tests.chaos.killtable [name ...]`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.chaos.broker import Broker, own_brokers
from tests.chaos.mutations import MUTATIONS, Mutation
from tests.chaos.run import Plan, Run, Verdict

# A fault that missed, or a machine that was too slow, is no verdict on the checker: another seed.
TRIES = 3


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    mutation: Mutation
    seed: int
    verdict: Verdict

    @property
    def killed(self) -> bool:
        """Whether the run went red with a name that fits."""
        return any(self.verdict.names[name] for name in self.mutation.names)

    def __str__(self) -> str:
        faults = ", ".join(self.mutation.kinds) or "none"
        names = ", ".join(f"{count} {name}" for name, count in self.verdict.names.most_common())
        return f"| {self.mutation.off} | {faults} | {self.seed} | {names or self.verdict.word} |"


def plan(mutation: Mutation, seed: int) -> Plan:
    """A short run in which the fault of a mutation strikes several times."""
    return Plan(
        seed=seed, minutes=0.4 if mutation.kinds else 0.2, workers=2, agents=60, partitions=3, rate=120.0,
        session_timeout=6.0, gap=3.0, kinds=mutation.kinds, off=mutation.name, emphasis=mutation.emphasis,
        patience=20.0,
    )  # fmt: skip


def table(names: Sequence[str], say: Callable[[str], None]) -> list[Line]:
    """Run the mutations of these names, each with up to `TRIES` seeds until it is killed."""
    lines = []
    with own_brokers(say) as brokers:
        for mutation in [mutation for mutation in MUTATIONS if mutation.name in names]:
            lines.append(_kill(mutation, brokers, say))
            say(str(lines[-1]))
    return lines


def _kill(mutation: Mutation, brokers: Sequence[Broker], say: Callable[[str], None]) -> Line:
    seed = mutation.seed
    while True:
        line = Line(mutation, seed, asyncio.run(Run(plan(mutation, seed), brokers, say)()))
        if line.killed or seed == mutation.seed + TRIES - 1:
            return line
        say(f"{mutation.name} survived seed {seed}: {line.verdict.line}")
        seed += 1


def main(arguments: Sequence[str]) -> int:
    lines = table(arguments or [mutation.name for mutation in MUTATIONS], lambda line: print(line, flush=True))
    print("\n| switched off | faults | seed | found |\n|---|---|---|---|")
    for line in lines:
        print(line)
    survivors = [line.mutation.name for line in lines if not line.killed]
    print(f"SURVIVED: {', '.join(survivors)}" if survivors else f"OK {len(lines)} of {len(lines)} mutations were found")
    return bool(survivors)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
