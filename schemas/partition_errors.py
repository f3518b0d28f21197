"""Errors about one partition: its inbox, its journal, the store behind it, and the lease to write it."""

from __future__ import annotations

from rookery.schemas.errors import RookeryError


class WrongPosition(RookeryError):
    """A journal partition tells of inboxes that are not the ones that are there: going on would lose or double."""

    reason = "wrong-position"

    def __init__(self, partition: int, why: str) -> None:
        self.partition, self.why = partition, why
        super().__init__(
            f"journal partition {partition} does not fit its inboxes: {why}; restore the old topics, or stop all "
            "workers and let the journal begin at what the inboxes hold now: faust -A <module> topics accept"
        )


class LogTruncated(RookeryError):
    """An inbox deleted records before they were handled: a loss; `first` and `last` are offsets, `count` how many."""

    reason = "log-truncated"

    def __init__(self, topic: str, partition: int, first: int, last: int, count: int) -> None:
        self.topic, self.partition, self.first, self.last, self.count = topic, partition, first, last, count
        super().__init__(
            f"{topic}-{partition} deleted {count} unhandled records, offsets {first} to {last}: raise its retention.ms "
            "(ROOKERY_INBOX_RETENTION) or add workers"
        )


class JournalError(RookeryError, ValueError):
    """A journal record that is damaged or was written by a newer version; recovery must not guess."""

    reason = "bad-journal-record"

    def __init__(self, record: str, why: str) -> None:
        self.record, self.why = record, why
        super().__init__(f"journal record {record}: {why}")


class StoreFailed(RookeryError):
    """The local store of a journal partition can't be used; nothing is lost, since the journal holds everything."""

    reason = "store-failed"

    def __init__(self, path: str, why: str) -> None:
        self.path, self.why = path, why
        super().__init__(
            f"the local store {path} can't be used: {why}; make room on that disk, give this worker a data_dir of its "
            "own that it may write, or set store to memory"
        )


class StoreDamaged(RookeryError):
    """The local store of a journal partition is not what was written; it is built anew from the journal."""

    reason = "store-damaged"
    retriable = True

    def __init__(self, path: str, why: str) -> None:
        self.path, self.why = path, why
        super().__init__(f"the local store {path} is damaged: {why}")


class LeaseLost(RookeryError):
    """Another worker owns the journal partition now; what this one had not committed is void there."""

    reason = "lease-lost"
    retriable = True

    def __init__(self, partition: int, why: str) -> None:
        self.partition, self.why = partition, why
        super().__init__(f"lease of journal partition {partition} is lost: {why}; its owner goes on with the work")
