"""Talking to agents from outside: tell and ask over any log.

A caller has a name and a reply topic of its own. It matches replies by correlation id; a reply that comes after its
ask has given up, or comes twice, is dropped and counted.
"""

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from rookery.agents.binding import Reply
from rookery.agents.effects import Outgoing
from rookery.schemas.address import client_address
from rookery.schemas.envelope import SEAL_BYTES, Priority, check_frame, decode, encode_body, seal
from rookery.schemas.errors import AskTimeout, EnvelopeError, MessageTooLarge
from rookery.schemas.system import ERROR_HEADER
from rookery.streams.core.outbox import Destination
from rookery.streams.core.placement import Placement
from rookery.streams.core.routing import Router

log = logging.getLogger(__name__)

# (topic, partition), key, value; returns once the log has stored the record.
Produce = Callable[[Destination, bytes, bytes], Awaitable[None]]


class Caller:
    """The sending half of a connection; whoever owns it feeds `received` with the records of `reply_topic`."""

    def __init__(
        self,
        name: str,
        router: Router,
        produce: Produce,
        *,
        now_ns: Callable[[], int],
        new_id: Callable[[], str],
        ask_timeout: float,
        message_bytes_max: int,
    ) -> None:
        """`ask_timeout` is the default in seconds; `message_bytes_max` bounds a sealed envelope."""
        self.address = client_address(name)
        self.reply_topic = router.topics.replies(name)
        self.now_ns = now_ns
        self.new_id = new_id
        self.late_count = 0
        self._router = router
        self._produce = produce
        self._ask_timeout = ask_timeout
        self._message_bytes_max = message_bytes_max
        self._pending: dict[str, asyncio.Future[Reply]] = {}
        self.placement = Placement(router.partitions, lambda: uuid.uuid4().hex)

    def new_agent_id(self) -> str:
        """A fresh uuid4 in hex, of an agent that will live on the worker whose turn it is."""
        return self.placement.new_agent_id()

    @property
    def partitions(self) -> int:
        """Of each inbox."""
        return self._router.partitions

    def encode(  # noqa: PLR0913 - the fields of a message
        self,
        target: str,
        message_type: str,
        content_type: str,
        payload: bytes,
        *,
        priority: Priority,
        sender: str | None = None,
        deadline_ns: int = 0,
        headers: dict[str, str] | None = None,
        message_id: str = "",
        correlation_id: str = "",
        reply_to: str = "",
    ) -> tuple[Destination, bytes, bytes]:
        """Destination, key and value of the record that carries a message. Raises MessageTooLarge, FrameTooLarge."""
        body = encode_body(
            sender or self.address,
            target,
            payload,
            self.now_ns(),
            priority,
            message_id or self.new_id(),
            message_type,
            content_type,
            correlation_id,
            reply_to=reply_to,
            deadline=deadline_ns,
            headers=headers,
        )
        if len(body) + SEAL_BYTES > self._message_bytes_max:
            raise MessageTooLarge(len(body) + SEAL_BYTES, self._message_bytes_max, target)
        check_frame(body, payload)
        destination, key = self._router.inbox(target, priority)
        return destination, key, seal(body)

    async def tell(
        self, target: str, message_type: str, content_type: str, payload: bytes, *, priority: Priority, **more: Any
    ) -> None:
        """Send one message; returns once the log has it. Raises MessageTooLarge."""
        await self._produce(*self.encode(target, message_type, content_type, payload, priority=priority, **more))

    async def ask(  # noqa: PLR0913 - the fields of a message
        self,
        target: str,
        message_type: str,
        content_type: str,
        payload: bytes,
        *,
        priority: Priority,
        timeout: float | None,
        sender: str | None = None,
        deadline_ns: int = 0,
        headers: dict[str, str] | None = None,
        message_id: str = "",
    ) -> Reply:
        """Send and wait for the reply; raises AskTimeout, which leaves open whether the message was handled.

        A message whose `message_id` was sent before is not handled again and gets no reply.
        """
        conversation = self.new_id()
        seconds = self._ask_timeout if timeout is None else timeout
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._pending[conversation] = reply
        try:
            async with asyncio.timeout(seconds):
                await self.tell(
                    target,
                    message_type,
                    content_type,
                    payload,
                    priority=priority,
                    sender=sender,
                    deadline_ns=deadline_ns,
                    headers=headers,
                    message_id=message_id or conversation,
                    correlation_id=conversation if message_id else "",
                    reply_to=self.address,
                )
                return await reply
        except TimeoutError:
            raise AskTimeout(target, seconds) from None
        finally:
            del self._pending[conversation]

    async def answer(self, reply: Outgoing) -> None:
        """Send a reply to whoever asked, an agent or a client; returns once the log has it."""
        sent = self._router.sent(reply)
        await self._produce(sent.destination, sent.key or b"", seal(sent.body) if sent.sequenced else sent.body)

    def received(self, value: bytes) -> None:
        """Take one record of the reply topic."""
        try:
            envelope = decode(value)
        except EnvelopeError as error:
            log.warning("a record on %s is no reply: %s", self.reply_topic, error)
            return
        waiting = self._pending.get(envelope.correlation_id)
        if waiting is None or waiting.done():
            self.late_count += 1
            return
        error_code = envelope.headers.get(ERROR_HEADER)
        waiting.set_result(Reply(envelope.type, envelope.content_type, envelope.payload, error_code))
