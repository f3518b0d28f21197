"""Commands about who owns what: `faust -A <module> rebalance plan|watch`, `drain WORKER` and `resume WORKER`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import click
import msgspec
from faust.cli.base import argument, option

from rookery.streams.core.assign import assign
from rookery.streams.core.fleet import Fleet, Standing
from rookery.streams.kafka import topics as admin
from rookery.streams.kafka.balancer import DRAIN
from rookery.streams.kafka.cli import Command
from rookery.streams.kafka.control import Control
from rookery.streams.kafka.fleets import read_fleet

POLL = 0.5  # seconds


class Move(NamedTuple):
    """A partition that would move."""

    partition: int
    now: str  # "" if nobody owns it
    to: str
    why: str


def plan(standings: Mapping[str, Standing], partitions: int, standbys: int) -> tuple[dict[str, int], list[Move]]:
    """Partitions of each worker after a rebalance of these members, and what would move, with reasons."""
    found = assign([s.member(member) for member, s in standings.items()], partitions, standbys=standbys)
    now = {p: member for member, standing in standings.items() for p in standing.owned}
    moves = []
    for p, to in enumerate(found.targets):
        owner = now.get(p)
        if owner == to:
            continue
        if owner is None:
            why = "nobody owns it"
        elif not standings[owner].weight:
            why = f"{standings[owner].name} is drained"
        else:
            share = sum(target == owner for target in found.targets)
            why = f"the share of {standings[owner].name} is {share}, it has {len(standings[owner].owned)}"
        if found.owners[p] != to:
            cold = standbys and p not in standings[to].warm
            why += "; later: " + ("the new copy has not caught up" if cold else "long turns are in flight")
        moves.append(Move(p, "" if owner is None else standings[owner].name, standings[to].name, why))
    return {s.name: found.targets.count(member) for member, s in standings.items()}, moves


def supposed(
    standings: Mapping[str, Standing], weights: Mapping[str, float], without: Iterable[str]
) -> dict[str, Standing]:
    """The members if these weights held, for workers that may be new, and these workers were gone."""
    gone = set(without)
    names = {standing.name for standing in standings.values()}
    new = {name: Standing(name) for name in weights if name not in names}
    return {
        member: msgspec.structs.replace(standing, weight=weights.get(standing.name, standing.weight))
        for member, standing in {**standings, **new}.items()
        if standing.name not in gone
    }


class _FleetCommand(Command):
    """What these commands share."""

    abstract = True

    async def fleet(self) -> tuple[Fleet, dict[str, Standing]] | None:
        """As it is now, each standing with what its worker owns; None while there is none."""
        async with admin.admin(self.rookery.client_kwargs) as client:
            found = await read_fleet(client, self.rookery.settings.app_id)
        if found is None:
            return None
        fleet, standings = found
        return fleet, {
            member: msgspec.structs.replace(
                standing, owned=(share := fleet.share(standing.name)).owned, copies=share.copies, generation=1
            )
            for member, standing in standings.items()
        }

    async def set_drained(self, worker: str, drained: bool, timeout: float) -> None:
        """Tell a worker, and wait until it has nothing left, or something again."""
        found = await self.fleet()
        names = [] if found is None else [share.name for share in found[0].workers]
        if worker not in names:
            raise click.ClickException(f"no worker is called {worker}; there are: {', '.join(names) or 'none'}")
        control = Control(self.rookery.topic_names.control, self.rookery.client_kwargs)
        await control.write(DRAIN + worker, b"drained" if drained else None)
        started = time.monotonic()
        while time.monotonic() < started + timeout:
            found = await self.fleet()
            if found is not None and bool(found[0].share(worker).owned) != drained:
                seconds = time.monotonic() - started
                self.say(
                    f"{worker} {'owns nothing any more' if drained else 'owns partitions again'} ({seconds:.1f} s)"
                )
                return
            await asyncio.sleep(POLL)
        raise click.ClickException(
            f"{worker} was told, but its partitions are not moved after {timeout:g} s: `rebalance plan` says why"
        )


class drain(_FleetCommand):  # noqa: N801 - the name of the command
    """Let a worker give all its partitions away and take no others, until `resume`, also after a restart."""

    options = [argument("worker"), option("--timeout", type=float, default=60.0, help="seconds to wait")]  # noqa: RUF012

    async def run(self, worker: str, timeout: float) -> None:
        """Return once it owns nothing; exits with 1 if that takes longer."""
        await self.set_drained(worker, True, timeout)


class resume(_FleetCommand):  # noqa: N801
    """Let a drained worker take its share again."""

    options = drain.options

    async def run(self, worker: str, timeout: float) -> None:
        """Return once it owns partitions; exits with 1 if that takes longer."""
        await self.set_drained(worker, False, timeout)


class rebalance(_FleetCommand):  # noqa: N801
    """Show who owns what and what a rebalance would move and why (`plan`), or what moves while it does (`watch`)."""

    options = [  # noqa: RUF012
        argument("action", type=click.Choice(["plan", "watch"])),
        option("--weight", "weights", multiple=True, metavar="WORKER=WEIGHT", help="plan as if; also a new worker"),
        option("--without", multiple=True, metavar="WORKER", help="plan as if it was gone"),
        option("--seconds", type=float, default=3600.0, help="how long to watch"),
    ]

    async def run(self, action: str, weights: tuple[str, ...], without: tuple[str, ...], seconds: float) -> None:
        """Print tables."""
        if action == "watch":
            await self.watch(seconds)
            return
        found = await self.fleet()
        if found is None:
            raise click.ClickException("no workers, or their partitions are being assigned right now")
        standings = found[1]
        try:
            wanted = {name: float(weight) for name, _, weight in (text.rpartition("=") for text in weights)}
        except ValueError:
            raise click.ClickException("--weight takes WORKER=WEIGHT") from None
        members = supposed(standings, wanted, without)
        if not members:
            raise click.ClickException("nobody would be left")
        settings = self.rookery.settings
        shares, moves = plan(members, settings.partitions, settings.standbys)
        rows: list[Any] = [
            [s.name, f"{s.weight:.2f}", str(len(s.owned)), str(shares[s.name])]
            for s in sorted(members.values(), key=lambda s: s.name)
        ]
        self.say(self.tabulate(rows, headers=["worker", "weight", "owns", "would own"], title="Workers"))
        if moves:
            rows = [[str(move.partition), move.now or "-", move.to, move.why] for move in moves]
            self.say(self.tabulate(rows, headers=["partition", "from", "to", "why"], title=f"{len(moves)} moves"))
        else:
            self.say("nothing would move")

    async def watch(self, seconds: float) -> None:
        """Print a line whenever something has changed."""
        before: Fleet | None = None
        told = ""
        end = time.monotonic() + seconds
        async with admin.admin(self.rookery.client_kwargs) as client:
            while time.monotonic() < end:
                found = await read_fleet(client, self.rookery.settings.app_id)
                if found is None or before is None or found[0].generation != before.generation:
                    line = "assigning, or no workers" if found is None else described(before, found[0])
                    if line != told:
                        self.say(f"{time.strftime('%H:%M:%S')} {line}")
                    told = line
                before = before if found is None else found[0]
                await asyncio.sleep(POLL)


def described(before: Fleet | None, fleet: Fleet) -> str:
    """A fleet in one line, with what moved since the one before."""
    workers = ", ".join(f"{share.name} {len(share.owned)} (weight {share.weight:.2f})" for share in fleet.workers)
    now = {p: share.name for share in fleet.workers for p in share.owned}
    then = {} if before is None else {p: share.name for share in before.workers for p in share.owned}
    moved = [f"{p}: {then[p]} -> {now[p]}" for p in sorted(now) if p in then and then[p] != now[p]]
    parts = [f"generation {fleet.generation}: {workers or 'nobody'}"]
    if moved:
        parts.append(f"{len(moved)} moved ({', '.join(moved[:12])}{', ...' if len(moved) > 12 else ''})")
    if fleet.postponed:
        parts.append(f"{len(fleet.postponed)} move later, {len(fleet.cold)} of them once their copy has caught up")
    return "; ".join(parts)
