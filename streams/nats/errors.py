"""Errors of the NATS edge and of clients that talk through it."""

from __future__ import annotations

from rookery.schemas.errors import RookeryError


class NatsUnavailable(RookeryError, ConnectionError):
    """No NATS server, or no edge behind it, can be reached; `server` has no password in it."""

    reason = "nats-unavailable"
    retriable = True

    def __init__(self, server: str, why: str) -> None:
        self.server, self.why = server, why
        super().__init__(f"NATS at {server}: {why}; check that the server and `python -m rookery.streams.nats` run")


class NatsRefused(RookeryError):
    """The other side of NATS refused a message: the edge one for an agent, the server or a stream one of an agent.

    `code` is the stable code of why.
    """

    reason = "nats-refused"

    def __init__(self, target: str, code: str, why: str) -> None:
        self.target, self.code, self.why = target, code, why
        super().__init__(f"a message for {target} was refused ({code}): {why}")


class NotOverNats(RookeryError):
    """Something that only a client with a connection to Kafka can do was asked of one that has none."""

    reason = "not-over-nats"

    def __init__(self) -> None:
        super().__init__(
            "the NATS edge carries tell and ask, not what reads or writes topics itself (tell_many, backlog, handled, "
            "dead letters): give this client a broker (ROOKERY_BROKER or BUS_ADDRESS) with kafka://"
        )


class InvalidSubject(RookeryError, ValueError):
    """The key of `nats/<subject>` is no subject that a message can be published to."""

    reason = "invalid-subject"

    def __init__(self, subject: str, why: str) -> None:
        self.subject, self.why = subject, why
        super().__init__(f"{subject!r} is no NATS subject to publish to: {why}")
