"""What this worker tells the group about itself, and when it asks the group to share out anew.

It asks when its weight has left the band, when an operator drains or resumes it, and when a postponed move can take
place: its partition has no long turn in flight any more, its copy has caught up, or `handover_delay` is over.
"""

from __future__ import annotations

import logging
import time
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from mode import Service

from rookery.ops.weights import Band, Node, Weigher
from rookery.streams.core.fleet import Fleet, Standing
from rookery.streams.kafka.assignor import WeightedAssignor
from rookery.streams.kafka.control import Control

if TYPE_CHECKING:
    from rookery.streams.kafka.app import App
    from rookery.streams.kafka.consumer import Consumer

log = logging.getLogger(__name__)

# How often it looks, seconds.
LOOK = 0.25
# The node is measured this often, and a change shows by two thirds within SMOOTHING; seconds.
SAMPLE, SMOOTHING = 2.0, 10.0
# A copy this close to the end of its journal has caught up: what is left is read in a moment. Offsets.
WARM_LAG = 1_000
# Follow-ups for postponed moves are asked for this often at most; seconds.
FOLLOW_UP_MIN = 1.0
RETRY_MAX = 30.0
DRAIN = "drain/"  # + the name of a worker: its name in the control topic while it is drained


class Balancer(Service):
    """See the head of this module; started before the consumer."""

    def __init__(self, app: App, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.app = app
        settings = app.settings
        coefficients = {"cpu": settings.weight_cpu, "mem": settings.weight_mem, "net": settings.weight_net}
        sources = {} if settings.weight is not None else Node(settings.network_mbit).sources()
        self.weigher = Weigher(coefficients, sources, SMOOTHING)
        self.band = Band(settings.weight_band, settings.weight_cool_down)
        self.is_drained = False
        self._sampled_at = float("-inf")
        self._waiting: dict[int, float] = {}  # own partitions whose move is postponed, since when
        self._followed_up_at = float("-inf")
        self._asked = 0
        self._known: Fleet | None = None  # the fleet by which this worker's agents are placed
        self._wish = ""  # why a rebalance is wanted, until it is asked for
        self._told: set[str] = set()  # failing sources that were logged

    @property
    def assignor(self) -> WeightedAssignor:
        """Ours."""
        return cast("WeightedAssignor", self.app.assignor)

    @property
    def weight(self) -> float:
        """The weight in force."""
        fixed = self.app.settings.weight
        return 0.0 if self.is_drained else (self.band.value or 1.0) if fixed is None else fixed

    def statistics(self) -> dict[str, Any]:
        """Weight and terms, what moves later, and how often it asked for a rebalance."""
        return {
            "weight": self.weight,
            "terms": dict(self.weigher.terms),
            "failing": len(self.weigher.failures),
            "drained": self.is_drained,
            "postponed": len(self._waiting),
            "asked": self._asked,
        }

    async def on_start(self) -> None:
        """Know the weight and whether an operator drained this worker, before the group is joined."""
        names = await self._control.snapshot()
        self.is_drained = names.get(DRAIN + self.app.worker_name) is not None
        self._sample(time.monotonic())
        self.look(time.monotonic())

    async def on_stop(self) -> None:
        """Stop listening before Faust cancels who listens."""
        await self._control.close()

    @cached_property
    def _control(self) -> Control:
        return Control(self.app.topic_names.control, self.app.client_kwargs)

    @Service.task
    async def _look(self) -> None:
        while not self.should_stop:
            await self.sleep(LOOK)
            now = time.monotonic()
            self.app.load.take(self.app.metrics.sampled(), now)
            if now - self._sampled_at >= SAMPLE:
                self._sample(now)
            self.look(now)
            if self._wish and cast("Consumer", self.app.consumer).rejoin():
                log.info("asked for a rebalance: %s", self._wish)
                self._wish = ""

    @Service.task
    async def _listen(self) -> None:
        """Follow what operators say; without a broker to say it the last word holds."""
        delay = 1.0
        mine = DRAIN + self.app.worker_name
        while not self.should_stop:
            try:
                async for name, value in self._control.follow():
                    delay = 1.0
                    if name == mine and self.is_drained != (value is not None):
                        self.is_drained = value is not None
                        self._ask("drained" if self.is_drained else "resumed")
            except Exception as error:
                log.warning("following the control topic failed, again in %.0f s: %s", delay, error)
                await self.sleep(delay)
                delay = min(2 * delay, RETRY_MAX)

    def _sample(self, now: float) -> None:
        self._sampled_at = now
        if self.app.settings.weight is not None:
            return
        before = self.band.value
        weight = self.weigher.sample(now)
        for name, why in self.weigher.failures.items():
            if name not in self._told:
                self._told.add(name)
                log.warning("the weight of this worker is made without %s, which counts as average: %s", name, why)
        if self.band.look(weight, now):
            self._ask(f"weight {before:.2f} became {weight:.2f}")

    def _ask(self, why: str) -> None:
        self._asked += 1
        self._wish = why

    def look(self, now: float) -> None:
        """Bring the standing up to date, and ask for what is due at `now`, monotonic seconds."""
        engine, settings, assignor = self.app.engine_service.running, self.app.settings, self.assignor
        busy = set() if engine is None else engine.busy_partitions()
        copies = {} if engine is None else engine.standbys.statistics()
        warm = {p for p, copy in copies.items() if copy["lag"] is not None and copy["lag"] <= WARM_LAG}
        fleet, name = assignor.fleet, self.app.worker_name
        if fleet is not self._known and (client := self.app.engine_service.client) is not None:
            client.placement.know(fleet)
            self._known = fleet
        mine = {p for p in fleet.postponed if p in assignor.owned}
        self._waiting = {p: self._waiting.get(p, now) for p in mine}
        overdue = {p for p, since in self._waiting.items() if now - since >= settings.handover_delay}
        due = {p for p in mine if p in overdue or (p not in busy and p not in fleet.cold)}
        awaited = {p for p in fleet.cold if fleet.postponed.get(p) == name}
        pause = FOLLOW_UP_MIN if mine == overdue else max(FOLLOW_UP_MIN, settings.handover_delay / 4)
        is_due = (mine and due == mine) or (awaited and awaited <= warm)
        if is_due and not self.app.rebalancing and now - self._followed_up_at >= pause:
            self._followed_up_at = now
            self._ask("postponed moves can take place")
        assignor.standing = Standing(
            name=name,
            weight=self.weight,
            limit=settings.partitions_max,
            busy=tuple(sorted(busy)),
            overdue=tuple(sorted(overdue)),
            warm=tuple(sorted(warm)),
            place=tuple(filter(None, settings.place.split("/"))),
            asked=self._asked,
        )
