"""From NATS to agents: requests and messages on subjects, and a JetStream stream that is acknowledged after Kafka."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import msgspec
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from msgspec import Struct

from rookery.agents.binding import Reply
from rookery.ops.settings import Settings
from rookery.schemas.envelope import JSON
from rookery.schemas.errors import ConfigurationError, MessageTooLarge, Overloaded, RookeryError
from rookery.schemas.system import ERROR_HEADER, FAILURE, Failure
from rookery.streams.client import Client
from rookery.streams.kafka import security
from rookery.streams.nats.connect import Link, Tasks, nats
from rookery.streams.nats.errors import NatsUnavailable
from rookery.streams.nats.letters import Letters
from rookery.streams.nats.messages import Incoming, read

log = logging.getLogger(__name__)

# Bytes of messages that wait for their turn to go to Kafka; what comes beyond is dropped and counted.
WAITING_BYTES_MAX = 64 << 20
WAITING_MAX = 65_536
# What a client that was refused for want of room should wait; seconds.
RETRY_AFTER = 1.0
# Longer than a message may take to Kafka (30 s): a stream that gives it out again meanwhile only makes work.
ACK_WAIT = 60.0
FETCH_MAX, FETCH_SECONDS = 256, 2.0
# A message that Kafka did not take comes again after this; so does a source that failed. Seconds.
AGAIN_AFTER = 1.0
COMPLAIN_EVERY = 10.0


class _StreamRecord(Struct):
    """A stream message in the form that a dead letter takes; times are milliseconds."""

    offset: int
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]
    timestamp: int


class Inbound:
    """See the head of this module; made and closed by the edge."""

    def __init__(self, client: Client, link: Link, letters: Letters, settings: Settings) -> None:
        self._client, self._link, self._letters, self._settings = client, link, letters, settings
        self._asks, self._tells, self._stored = (Tasks(settings.nats_in_flight) for _ in range(3))
        self._subscription: Any = None
        self._pulling: asyncio.Task[None] | None = None
        self._complained = 0.0
        self.counts = {"told": 0, "asked": 0, "refused": 0, "dropped": 0, "given_back": 0}

    @property
    def in_flight(self) -> int:
        """Messages and asks in hand."""
        return len(self._asks) + len(self._tells) + len(self._stored)

    async def start(self) -> None:
        """Subscribe; raises NatsUnavailable, and ConfigurationError when a stream is missing or would answer for us."""
        settings = self._settings
        try:
            taken = await self._link.stream_of(f"{settings.nats_prefix}.>")
        except nats.errors.Error as error:
            why = f"$JS.API.STREAM.NAMES is not answered ({error}): this user must be allowed to publish there"
            raise NatsUnavailable(self._link.server, why) from error
        if taken is not None:
            raise ConfigurationError(
                f"the stream {taken} takes {settings.nats_prefix}.>, and a stream answers each request by itself: give "
                "it other subjects, such as stream.agents.> (ROOKERY_NATS_STREAM_PREFIX), or set ROOKERY_NATS_PREFIX"
            )
        if settings.nats_stream:
            pulling = await self._bind(settings.nats_stream)
            self._pulling = asyncio.create_task(self._pull(settings.nats_stream, pulling), name="rookery-nats-stream")
        self._subscription = await self._link.nc.subscribe(
            f"{settings.nats_prefix}.>",
            queue=settings.app_id,
            cb=self._received,
            pending_msgs_limit=WAITING_MAX,
            pending_bytes_limit=WAITING_BYTES_MAX,
        )

    async def stop(self, timeout: float) -> None:
        """Take nothing more, and finish what is in hand for so many seconds."""
        if self._pulling is not None:
            self._pulling.cancel()
            await asyncio.gather(self._pulling, return_exceptions=True)
        if self._subscription is not None and self._link.is_up:
            try:
                async with asyncio.timeout(timeout):
                    await self._subscription.drain()
            except (TimeoutError, nats.errors.Error) as error:
                log.warning("messages that had just come are lost: %s", str(error) or type(error).__name__)
        await asyncio.gather(*(tasks.finish(timeout) for tasks in (self._asks, self._tells, self._stored)))

    # --- subjects -----------------------------------------------------------------------------------------------------

    async def _received(self, msg: Any) -> None:
        try:
            message = read(self._settings.nats_prefix, msg.subject, msg.headers, msg.data)
            if msg.reply and not message.stored_only and not self._asks.room:
                raise Overloaded(message.target, RETRY_AFTER)
        except RookeryError as error:
            await self._refuse(msg, error)
            return
        if msg.reply and not message.stored_only:
            self._asks.start(self._ask(msg, message))
        else:
            await self._tells.wait_for_room()
            self._tells.start(self._tell(msg, message))

    async def _ask(self, msg: Any, message: Incoming) -> None:
        try:
            reply = await self._client.ask(
                message.target,
                message.type,
                message.content_type,
                message.payload,
                priority=message.priority,
                timeout=message.timeout,
                sender=message.sender,
                deadline_ns=message.deadline_ns,
                headers=message.headers,
                message_id=message.id,
            )
            await self._reply(msg, reply)
        except (RookeryError, KafkaError) as error:
            await self._refuse(msg, error)
        else:
            self.counts["asked"] += 1

    async def _reply(self, msg: Any, reply: Reply) -> None:
        headers = {"type": reply.type, "content-type": reply.content_type}
        if reply.error is not None:
            headers[ERROR_HEADER] = reply.error
        try:
            await self._publish(msg.reply, reply.payload, headers)
        except nats.errors.MaxPayloadError:
            raise MessageTooLarge(len(reply.payload), self._link.nc.max_payload, msg.reply) from None

    async def _tell(self, msg: Any, message: Incoming) -> None:
        try:
            await self._store(message)
        except (RookeryError, KafkaError) as error:
            await self._refuse(msg, error)
        else:
            if msg.reply:
                await self._publish(msg.reply, b"", {"reply": "stored"})

    async def _store(self, message: Incoming) -> None:
        """Return once Kafka has the message; raises what `Client.tell` does."""
        try:
            await self._client.tell(
                message.target,
                message.type,
                message.content_type,
                message.payload,
                priority=message.priority,
                sender=message.sender,
                deadline_ns=message.deadline_ns,
                headers=message.headers,
                message_id=message.id,
            )
        except MessageSizeTooLargeError:  # the topic takes less than our settings say
            size = len(message.payload)
            raise MessageTooLarge(size, self._settings.message_bytes_max, message.target) from None
        self.counts["told"] += 1

    async def _refuse(self, msg: Any, error: RookeryError | KafkaError) -> None:
        """Tell the sender, if it can be told; else the message is lost."""
        if isinstance(error, tuple(security.REFUSALS)):
            error = security.refused(error)
        code = error.reason if isinstance(error, RookeryError) else "broker-unreachable"
        text = str(error) or type(error).__name__
        self.counts["refused" if msg.reply else "dropped"] += 1
        self._complain("a message on %s was refused: %s", msg.subject, text)
        if msg.reply:
            headers = {ERROR_HEADER: code, "type": FAILURE, "content-type": JSON}
            if isinstance(error, Overloaded):
                headers["retry-after"] = f"{error.retry_after:g}"
            await self._publish(msg.reply, msgspec.json.encode(Failure(code, text[:4_000])), headers)

    async def _publish(self, subject: str, payload: bytes, headers: dict[str, str]) -> None:
        """Raises MaxPayloadError; an answer that can't be sent otherwise is one that comes too late."""
        try:
            await self._link.nc.publish(subject, payload, headers=headers)
        except nats.errors.MaxPayloadError:
            raise
        except nats.errors.Error as error:
            self._complain("an answer to %s was not sent: %s", subject, str(error) or type(error).__name__)

    def _complain(self, text: str, *args: object) -> None:
        """Log a line, one in a while: who sends nonsense must not fill the disk."""
        if time.monotonic() - self._complained > COMPLAIN_EVERY:
            self._complained = time.monotonic()
            log.warning(text, *args)

    # --- the stream ---------------------------------------------------------------------------------------------------

    async def _bind(self, stream: str) -> Any:
        """The pull subscription of the durable consumer, made if it is missing; raises ConfigurationError."""
        settings = self._settings
        config = nats.js.api.ConsumerConfig(
            ack_policy=nats.js.api.AckPolicy.EXPLICIT,
            ack_wait=ACK_WAIT,
            max_ack_pending=settings.nats_in_flight,
            description=f"messages for agents of {settings.app_id}",
        )
        try:
            return await self._link.js.pull_subscribe(
                f"{settings.nats_stream_prefix}.>", durable=settings.nats_durable, stream=stream, config=config
            )
        except (nats.js.errors.Error, nats.errors.Error) as error:
            why = getattr(error, "description", None) or str(error) or type(error).__name__
            raise ConfigurationError(
                f"nats_stream {stream}: {why}; make it with the subjects {settings.nats_stream_prefix}.>: nats stream "
                f"add {stream}"
            ) from error

    async def _pull(self, stream: str, pulling: Any) -> None:
        """Hand messages of the stream on, for ever; a consumer that was deleted is made again."""
        while True:
            try:
                if pulling is None:
                    pulling = await self._bind(stream)
                await self._stored.wait_for_room()
                for msg in await pulling.fetch(min(self._stored.room, FETCH_MAX), timeout=FETCH_SECONDS):
                    self._stored.start(self._take(msg))
            except (TimeoutError, nats.errors.TimeoutError):
                continue
            except (ConfigurationError, nats.js.errors.Error, nats.errors.Error) as error:
                self._complain("reading the stream %s failed: %s", stream, str(error) or type(error).__name__)
                await asyncio.sleep(AGAIN_AFTER)
                await self._link.up()
                if pulling is not None:
                    await _release(pulling)
                pulling = None

    async def _take(self, msg: Any) -> None:
        """One message of the stream: acknowledged when Kafka has it or a dead letter of it, else given back."""
        place = msg.metadata
        try:
            message = read(
                self._settings.nats_stream_prefix,
                msg.subject,
                msg.headers,
                msg.data,
                default_id=f"nats/{place.stream}/{place.sequence.stream}",
            )
            await self._store(message)
            await self._settle(msg.ack)
        except (RookeryError, KafkaError) as error:
            if isinstance(error, RookeryError) and not error.retriable:
                await self._put_aside(msg, error)
                return
            self.counts["given_back"] += 1
            self._complain("Kafka did not take a message of the stream: %s", str(error) or type(error).__name__)
            await self._settle(lambda: msg.nak(AGAIN_AFTER))

    async def _put_aside(self, msg: Any, why: RookeryError) -> None:
        """A dead letter of a message that would be refused again."""
        place = msg.metadata
        record = _StreamRecord(
            place.sequence.stream,
            msg.subject.encode(),
            msg.data,
            [(name, value.encode(errors="replace")) for name, value in (msg.headers or {}).items()],
            round(place.timestamp.timestamp() * 1000),
        )
        self.counts["refused"] += 1
        self._complain("a message of the stream on %s was put aside: %s", msg.subject, why)
        await self._letters.write(f"nats:{place.stream}", 0, record, None, why)
        await self._settle(msg.term)

    async def _settle(self, say: Callable[[], Any]) -> None:
        """What is not heard is given out again, and dropped then by its id."""
        try:
            await say()
        except nats.errors.Error as error:
            self._complain("the stream did not hear of a message: %s", str(error) or type(error).__name__)


async def _release(pulling: Any) -> None:
    try:
        await pulling.unsubscribe()
    except nats.errors.Error:
        log.debug("the old subscription was gone", exc_info=True)
