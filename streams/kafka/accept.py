"""`topics accept`: what an operator changed on purpose becomes what the application remembers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rookery.schemas.errors import ConfigurationError
from rookery.schemas.journal import Claim
from rookery.streams.core.fold import JournalFold
from rookery.streams.engine.engine import limits_of
from rookery.streams.engine.recovery import recover
from rookery.streams.kafka import registration, topics
from rookery.streams.kafka.log import KafkaLog

if TYPE_CHECKING:
    from rookery.streams.kafka.app import App


async def accept(app: App) -> str:
    """Let every journal partition begin at what the inboxes hold now, where it does not fit, and register anew.

    Returns what was done, in words. Raises ConfigurationError while workers run, or what `recover` raises.
    """
    settings = app.settings
    async with topics.admin(app.client_kwargs) as client:
        members = [group[5] for group in (await client.describe_consumer_groups([settings.app_id]))[0].groups]
    if any(members):
        raise ConfigurationError(f"{sum(map(len, members))} workers of {settings.app_id} are running: stop them first")
    made = await topics.ensure(settings, app.client_kwargs)
    log = KafkaLog(app.topic_names, app.client_kwargs)
    await log.start()
    mended = 0
    try:
        limits, inboxes = limits_of(settings), app.topic_names.inboxes
        for number in range(settings.partitions):
            if not await log.journal_end(number):
                continue
            claim = Claim(generation=0, worker=f"{app.worker_name} accepts", partitions=settings.partitions)
            owned = await recover(log, number, limits, claim, inboxes, JournalFold, afresh=True)
            await owned.rewrite()
            mended += 1
    finally:
        await log.stop()
    await registration.register(settings, app.registry, app.client_kwargs, accept=True)
    return f"made {', '.join(made) or 'no topics'}; rewrote the positions of {mended} journal partitions; registered"
