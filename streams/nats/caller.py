"""Tell and ask through the NATS edge, for a client that has no way to Kafka."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any, NoReturn

import msgspec

from rookery.agents.binding import Reply
from rookery.ops.settings import Settings
from rookery.schemas.address import client_address
from rookery.schemas.envelope import Priority
from rookery.schemas.errors import AskTimeout, BrokerUnreachable, MessageTooLarge, Overloaded, SendFailed
from rookery.schemas.system import ERROR_HEADER, Failure
from rookery.streams.nats.connect import Link, nats
from rookery.streams.nats.errors import NatsRefused, NatsUnavailable
from rookery.streams.nats.messages import subject_of

# One try of a tell; the next one has the same id, so that it is handled once. Seconds.
TELL_TRY = 10.0
# Codes by which the edge says that Kafka has not confirmed the message: the same id may be sent again.
UNCONFIRMED = (SendFailed.reason, BrokerUnreachable.reason)
# Between tries while no edge listens; seconds.
AGAIN_AFTER = 0.2
# What the edge's own answer, such as ask-timeout, may take longer than the ask; seconds.
GRACE = 1.0


class NatsCaller:
    """The connection of one client; `name` is the client's."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._settings = settings
        self._name = name
        self._link: Link | None = None

    async def connect(self) -> None:
        """Connect; raises NatsUnavailable, and ConfigurationError when nats-py is not installed."""
        settings = self._settings
        link = Link(settings, f"{settings.app_id}-client-{self._name}", settings.nats_url or settings.broker)
        await link.open()
        self._link = link

    async def close(self) -> None:
        """Disconnect; doing so twice is fine."""
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    async def tell(
        self, target: str, message_type: str, content_type: str, payload: bytes, *, priority: Priority, **more: Any
    ) -> None:
        """Return once Kafka has the message: tried again with the same id for `ask_timeout` seconds.

        Raises MessageTooLarge, NatsUnavailable, and NatsRefused with the edge's reason.
        """
        headers = self._headers(message_type, content_type, priority, **more) | {"reply": "stored"}
        give_up = time.monotonic() + self._settings.ask_timeout
        while True:
            try:
                answer = await self._request(target, payload, headers, give_up, TELL_TRY)
            except TimeoutError:
                if time.monotonic() >= give_up:
                    raise NatsUnavailable(self._open.server, "no edge has confirmed the message") from None
                continue
            code = answer.headers.get(ERROR_HEADER)
            if code is None:
                return
            if code not in UNCONFIRMED or time.monotonic() + AGAIN_AFTER >= give_up:
                self._refused(target, answer)
            await asyncio.sleep(AGAIN_AFTER)

    async def ask(
        self,
        target: str,
        message_type: str,
        content_type: str,
        payload: bytes,
        *,
        priority: Priority,
        timeout: float | None,
        **more: Any,
    ) -> Reply:
        """Raises AskTimeout, MessageTooLarge, NatsUnavailable, Overloaded."""
        seconds = self._settings.ask_timeout if timeout is None else timeout
        headers = self._headers(message_type, content_type, priority, **more)
        headers["timeout-ms"] = str(max(1, round(seconds * 1000)))
        try:
            answer = await self._request(target, payload, headers, time.monotonic() + seconds, seconds + GRACE)
        except TimeoutError:
            raise AskTimeout(target, seconds) from None
        error = answer.headers.get(ERROR_HEADER)
        if error == AskTimeout.reason:
            raise AskTimeout(target, seconds)
        if error == Overloaded.reason:
            raise Overloaded(target, float(answer.headers.get("retry-after", "1")))
        return Reply(answer.headers.get("type", ""), answer.headers.get("content-type", ""), answer.data, error)

    @property
    def _open(self) -> Link:
        if self._link is None:
            raise RuntimeError("the client is not started: use it in `async with Client(...) as client`")
        return self._link

    def _headers(
        self,
        message_type: str,
        content_type: str,
        priority: Priority,
        *,
        sender: str | None = None,
        deadline_ns: int = 0,
        headers: dict[str, str] | None = None,
    ) -> dict[str, str]:
        found = {
            **(headers or {}),
            "id": uuid.uuid4().hex,
            "type": message_type,
            "content-type": content_type,
            "priority": priority.name.lower(),
            "sender": sender or client_address(self._name),
        }
        if deadline_ns:
            found["deadline-ms"] = str(deadline_ns // 1_000_000)
        return found

    async def _request(
        self, target: str, payload: bytes, headers: dict[str, str], give_up: float, seconds: float
    ) -> Any:
        """The edge's answer; tried again while none listens. Raises TimeoutError, NatsUnavailable, MessageTooLarge."""
        link = self._open
        subject = subject_of(self._settings.nats_prefix, target)
        while True:
            try:
                return await link.nc.request(subject, payload, timeout=seconds, headers=headers)
            except nats.errors.NoRespondersError:
                if time.monotonic() + AGAIN_AFTER >= give_up:
                    raise NatsUnavailable(link.server, "no edge listens there") from None
                await asyncio.sleep(AGAIN_AFTER)
            except nats.errors.MaxPayloadError:
                raise MessageTooLarge(len(payload), link.nc.max_payload, target) from None
            except nats.errors.TimeoutError:
                raise TimeoutError from None
            except nats.errors.Error as error:
                raise NatsUnavailable(link.server, str(error)) from error

    def _refused(self, target: str, answer: Any) -> NoReturn:
        code = answer.headers[ERROR_HEADER]
        try:
            text = msgspec.json.decode(answer.data, type=Failure).text
        except msgspec.DecodeError:
            text = "no reason was given"
        raise NatsRefused(target, code, text)
