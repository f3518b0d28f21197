"""From agents to NATS: what they send or ask at `nats/<subject>` lies on a topic of its own, which is read here.

A record is done when NATS has the message, when the asker has been answered, or when there is a dead letter of it. The
group's offset is committed up to the first record that is not done: after a crash the rest is done again, with the same
ids.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

from rookery.agents.effects import Outgoing, answer_body, error_body
from rookery.ops.settings import Settings
from rookery.schemas.address import parse_client
from rookery.schemas.envelope import Received, decode
from rookery.schemas.errors import AskTimeout, Expired, MessageTooLarge, Overloaded, RookeryError, Undecodable
from rookery.schemas.payload import OCTETS
from rookery.schemas.system import ERROR_HEADER
from rookery.streams.client import Client
from rookery.streams.kafka import security
from rookery.streams.nats.connect import Link, Tasks, nats
from rookery.streams.nats.errors import NatsRefused
from rookery.streams.nats.letters import Letters
from rookery.streams.nats.messages import content, headers_of, target_subject
from rookery.streams.nats.publishing import AGAIN_FIRST, AGAIN_MAX, Message, Publisher

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2
# A NATS that is away for long is no reason to leave the group; milliseconds.
POLL_INTERVAL_MAX_MS = 86_400_000
RETRY_AFTER = 1.0  # what an agent that was refused for want of room should wait; seconds


class Outbound(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """See the head of this module; made and closed by the edge."""

    def __init__(self, client: Client, link: Link, letters: Letters, settings: Settings) -> None:
        self._client, self._link, self._letters, self._settings = client, link, letters, settings
        self._in_flight = settings.nats_in_flight
        self._asks = Tasks(self._in_flight)
        self._open: dict[TopicPartition, set[int]] = {}  # offsets in hand
        self._next: dict[TopicPartition, int] = {}  # offset after the last that was taken
        self._committed: dict[TopicPartition, int] = {}
        self._publisher = Publisher(link, self._published, self._give_up_message)
        self._counts = {"requested": 0, "answer_retries": 0}
        self._consumer = AIOKafkaConsumer(
            **security.client_kwargs(settings),
            client_id=f"{settings.app_id}-nats",
            group_id=f"{settings.app_id}.nats",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=round(settings.session_timeout * 1000),
            rebalance_timeout_ms=round(settings.session_timeout * 1000),
            heartbeat_interval_ms=round(settings.heartbeat_interval * 1000),
            max_poll_interval_ms=POLL_INTERVAL_MAX_MS,
        )

    @property
    def in_flight(self) -> int:
        """Records in hand."""
        return sum(map(len, self._open.values()))

    @property
    def counts(self) -> dict[str, int]:
        """What was done so far."""
        published, retries = self._publisher.counts["published"], self._publisher.counts["retries"]
        requested, again = self._counts["requested"], self._counts["answer_retries"]
        return {"published": published, "requested": requested, "retries": retries + again}

    async def run(self) -> None:
        """Carry messages until cancelled."""
        await self._consumer.start()
        try:
            self._consumer.subscribe([self._client.topics.nats], listener=self)
            while True:
                await self._publisher.fewer_than(self._in_flight)
                fetched = await self._consumer.getmany(
                    timeout_ms=round(POLL_SECONDS * 1000), max_records=self._in_flight - self._publisher.queued
                )
                for tp, records in fetched.items():
                    self._open.setdefault(tp, set()).update(record.offset for record in records)
                    self._next[tp] = records[-1].offset + 1
                    for record in records:
                        await self._carry(tp, record)
                await self._commit()
        finally:
            patience = self._settings.drain_timeout if self._link.is_up else 0.0
            await asyncio.gather(self._asks.finish(patience), self._publisher.finish(patience))
            await self._commit()
            await self._consumer.stop()

    async def on_partitions_revoked(self, revoked: Any) -> None:
        """Commit what is done; what is not may be done twice, here and by the next owner."""
        await self._commit()
        self._open, self._next, self._committed = {}, {}, {}

    async def on_partitions_assigned(self, assigned: Any) -> None:
        """Nothing to do: reading goes on at what was committed."""

    async def _commit(self) -> None:
        due = {tp: min(self._open[tp], default=following) for tp, following in self._next.items()}
        due = {tp: offset for tp, offset in due.items() if self._committed.get(tp) != offset}
        if not due:
            return
        try:
            await self._consumer.commit(due)
        except KafkaError as error:  # the next commit or the next owner makes it good
            log.warning("offsets were not committed: %s", error)
        else:
            self._committed.update(due)

    def _done(self, tp: TopicPartition, record: ConsumerRecord[Any, Any]) -> None:
        self._open.get(tp, set()).discard(record.offset)

    async def _carry(self, tp: TopicPartition, record: ConsumerRecord[Any, Any]) -> None:
        """Begin to publish what is told, and to ask what is asked."""
        envelope = None
        try:
            envelope = decode(record.value)
            subject = target_subject(envelope)
        except RookeryError as error:
            await self._give_up(tp, record, envelope, error)
            return
        if not envelope.reply_to:
            self._publisher.put(Message(tp, record, envelope, subject))
        elif self._asks.room:
            self._asks.start(self._ask(tp, record, envelope, subject))
        else:
            full = Overloaded(envelope.target, RETRY_AFTER)
            await self._answer(envelope, self._failed(envelope, full.reason, str(full)))
            self._done(tp, record)

    def _published(self, message: Message) -> None:
        self._done(message.tp, message.record)

    async def _give_up_message(self, message: Message, why: RookeryError) -> None:
        await self._give_up(message.tp, message.record, message.envelope, why)

    async def _give_up(
        self, tp: TopicPartition, record: ConsumerRecord[Any, Any], envelope: Received | None, why: RookeryError
    ) -> None:
        log.warning("a message to NATS becomes a dead letter: %s", why)
        await self._letters.write(tp.topic, tp.partition, record, envelope, why)
        self._done(tp, record)

    # --- asks ---------------------------------------------------------------------------------------------------------

    async def _ask(
        self, tp: TopicPartition, record: ConsumerRecord[Any, Any], envelope: Received, subject: str
    ) -> None:
        try:
            reply = await self._request(envelope, subject)
        except RookeryError as error:
            reply = self._failed(envelope, error.reason, str(error))
        await self._answer(envelope, reply)
        self._done(tp, record)

    async def _request(self, envelope: Received, subject: str) -> Outgoing | None:
        """Ask NATS, until the deadline; raises AskTimeout, Expired, NatsRefused, MessageTooLarge."""
        seconds = self._settings.ask_timeout
        if envelope.deadline > 0:
            seconds = (envelope.deadline - time.time_ns()) / 1e9
            if seconds <= 0:
                raise Expired(envelope.target, envelope.deadline)
        try:
            async with asyncio.timeout(seconds):
                await self._link.up()
                msg = await self._link.nc.request(
                    subject, envelope.payload, timeout=seconds, headers=headers_of(envelope)
                )
        except nats.errors.NoRespondersError:
            raise NatsRefused(envelope.target, "no-responders", "nobody answers on that subject") from None
        except nats.errors.MaxPayloadError:
            raise MessageTooLarge(len(envelope.payload), self._link.nc.max_payload, envelope.target) from None
        except (TimeoutError, nats.errors.TimeoutError):
            raise AskTimeout(envelope.target, seconds) from None
        except nats.errors.Error as error:
            raise NatsRefused(envelope.target, "nats-unavailable", str(error)) from error
        given = {name.lower(): value for name, value in (msg.headers or {}).items()}
        if code := given.get(ERROR_HEADER) or given.get("nats-service-error-code"):
            text = given.get("nats-service-error") or msg.data.decode(errors="replace")
            return self._failed(envelope, code, text)
        try:
            message_type, content_type = content({"content-type": given.get("content-type", "")}, msg.data)
        except Undecodable:  # nats-py's respond() sends the request's headers back
            message_type, content_type = "bytes", OCTETS
        return answer_body(
            envelope,
            envelope.target,
            envelope.reply_to,
            (message_type, content_type, msg.data),
            time.time_ns(),
            f"nats:{envelope.id}",
        )

    def _failed(self, envelope: Received, code: str, text: str) -> Outgoing | None:
        return error_body(envelope, code, text, now_ns=time.time_ns(), message_id=f"nats:{envelope.id}")

    async def _answer(self, envelope: Received, reply: Outgoing | None) -> None:
        """Send the answer to the agent, however long that takes; a client that does not get it has perhaps left."""
        again = AGAIN_FIRST
        while reply is not None:
            if len(reply.body) > self._settings.message_bytes_max:
                error = MessageTooLarge(len(reply.body), self._settings.message_bytes_max, envelope.reply_to)
                reply = self._failed(envelope, error.reason, str(error))
                continue
            try:
                await self._client.answer(reply)
            except KafkaError as error:
                self._counts["answer_retries"] += 1
                log.warning("an answer from NATS to %s was not sent: %s", envelope.reply_to, error)
                if parse_client(envelope.reply_to) is not None:
                    return
                await asyncio.sleep(again)
                again = min(again * 2, AGAIN_MAX)
            else:
                self._counts["requested"] += 1
                return
