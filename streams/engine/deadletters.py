"""Dead letters: what could not be handled, with its original bytes, coordinates and reason.

A dead letter leaves through the outbox like any message, so it and the "done" of its message are committed together.
"""

import traceback
from collections.abc import Callable

from rookery.agents.effects import error_body
from rookery.schemas.deadletter import encode_dead_letter, encode_lost_stretch
from rookery.schemas.errors import EnvelopeError, RookeryError
from rookery.schemas.partition_errors import LogTruncated
from rookery.streams.core.batch import Finished, Sent
from rookery.streams.core.mailbox import Item, Mailbox
from rookery.streams.core.partition import Partition
from rookery.streams.core.routing import Router
from rookery.streams.log import Record

# A traceback longer than this says nothing more; characters.
_TRACEBACK_CHARS_MAX = 8_000


class DeadLetters:
    """Makes dead letters and counts them by reason."""

    def __init__(self, router: Router, now_ns: Callable[[], int], new_id: Callable[[], str]) -> None:
        self._router = router
        self._now_ns = now_ns
        self._new_id = new_id
        self.counts: dict[str, int] = {}

    def finished(
        self,
        partition: Partition,
        lane: int,
        item: Item,
        error: BaseException,
        mailbox: Mailbox | None = None,
        attempts: int = 0,
    ) -> Finished:
        """The effects of a message that is given up because of `error`, after so many turns."""
        kind = "" if mailbox is None else mailbox.kind_name if mailbox.kind is None else mailbox.kind.name
        sent = [self._letter(partition.number, lane, item.record, item, error, attempts, kind)]
        text = text_of(error)
        reply = error_body(item.envelope, reason_of(error), text, now_ns=self._now_ns(), message_id=self._new_id())
        if reply is not None:
            sent.append(self._router.sent(reply))
        return Finished(mailbox, lane, item.offset, None, sent)

    def unreadable(self, partition: Partition, lane: int, record: Record, error: EnvelopeError) -> Finished:
        """The effects of a record that is no envelope."""
        return Finished(None, lane, record.offset, None, [self._letter(partition.number, lane, record, None, error, 0)])

    def truncated(self, number: int, lane: int, error: LogTruncated) -> Finished:
        """The effects of a stretch that the log deleted before it was handled."""
        self.counts[error.reason] = self.counts.get(error.reason, 0) + 1
        body = encode_lost_stretch(error, app_id=self._router.topics.app_id)
        letter = Sent((self._router.topics.deadletter, number), None, body, sequenced=False)
        return Finished(None, lane, error.last, None, [letter])

    def _letter(
        self,
        number: int,
        lane: int,
        record: Record,
        item: Item | None,
        error: BaseException,
        attempts: int,
        kind: str = "",
    ) -> Sent:
        reason = reason_of(error)
        self.counts[reason] = self.counts.get(reason, 0) + 1
        own = isinstance(error, RookeryError)
        trace = "" if own else "".join(traceback.format_exception(error))[-_TRACEBACK_CHARS_MAX:]
        body = encode_dead_letter(
            record,
            topic=self._router.topics.inboxes[lane],
            partition=number,
            envelope=None if item is None else item.envelope,
            reason=reason,
            error=f"{type(error).__name__}: {text_of(error)}",
            traceback=trace,
            attempts=attempts,
            app_id=self._router.topics.app_id,
            agent_type=kind,
        )
        return Sent((self._router.topics.deadletter, number), record.key, body, sequenced=False)


def text_of(error: BaseException) -> str:
    """The text of an error in a form that travels, even if its `__str__` fails or it is no valid Unicode."""
    try:
        text = str(error)
    except Exception:
        text = ""
    return (text or type(error).__name__).encode(errors="replace").decode()


def reason_of(error: BaseException) -> str:
    """The stable code of an error: its own, or that of a handler that failed."""
    return error.reason if isinstance(error, RookeryError) else "handler-failed"
