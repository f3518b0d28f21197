"""Leases: who may append to a journal partition, enforced by the broker.

InitProducerId under the transactional id `<app>-journal-<partition>` gives a producer id and a new epoch; no
transaction is ever begun. Once a batch with the newer epoch has landed in the partition, the broker refuses the older
one's batches there (InvalidProducerEpoch), and nowhere else. Until then the older may still append: therefore the
first append of a lease is its claim, and recovery reads up to the claim.

The broker's coordinator counts epochs in 16 bits; after 32,766 leases of one partition it hands out a new producer id,
which does not fence the old one. The lease number in each record's header and the contiguity of acks hold there too.
"""

import logging
import time
from collections.abc import Collection

from aiokafka import AIOKafkaProducer
from aiokafka.errors import InvalidProducerEpoch, KafkaError, MessageSizeTooLargeError, ProducerFenced

from rookery.schemas.journal import LEASE_HEADER, lease_header
from rookery.schemas.partition_errors import LeaseLost
from rookery.streams.kafka.batches import Identity, SequencedBatch, deliver, fetch_identity
from rookery.streams.log import Append

log = logging.getLogger(__name__)


def transactional_id(app_id: str, partition: int) -> str:
    """The id under which the broker counts the leases of a journal partition."""
    return f"{app_id}-journal-{partition}"


class KafkaLease:
    """The right to append to one journal partition; dead after the first append that was not acknowledged."""

    def __init__(
        self, producer: AIOKafkaProducer, topic: str, partition: int, identity: Identity, timeout: float
    ) -> None:
        self._producer = producer
        self._topic = topic
        self._partition = partition
        self._identity = identity
        self._timeout = timeout
        self._dead: str = ""

    @property
    def epoch(self) -> tuple[int, int]:
        """(producer id, epoch) under which the broker knows this lease."""
        return self._identity.producer_id, self._identity.epoch

    async def append(self, records: Collection[Append], number: int | None) -> int:
        """Append all records as one atomic batch and return the offset of the first; see `Lease.append`."""
        if self._dead:
            raise LeaseLost(self._partition, self._dead)
        headers = [] if number is None else [(LEASE_HEADER, lease_header(number))]
        batch = SequencedBatch(self._identity, records, headers)
        self._identity.advance(len(records))
        self._dead = "an earlier append did not end"  # one at a time; also when this call is cancelled
        try:
            offset = await deliver(self._producer, self._topic, self._partition, batch, self._timeout)
        except (KafkaError, TimeoutError) as error:
            self._dead = _explain(error, self._timeout)
            raise LeaseLost(self._partition, self._dead) from error
        self._dead = ""
        return offset


async def acquire(
    producer: AIOKafkaProducer, app_id: str, topic: str, partition: int, timeout: float, append_timeout: float
) -> KafkaLease:
    """Take a new lease within `timeout` seconds; its appends are given up after `append_timeout` seconds.

    Raises LeaseLost when the coordinator gives none.
    """
    started = time.monotonic()
    try:
        identity = await fetch_identity(producer, transactional_id(app_id, partition), timeout)
    except KafkaError as error:
        raise LeaseLost(partition, _explain(error, timeout)) from error
    log.debug("lease on %s-%d: epoch %d, %.3f s", topic, partition, identity.epoch, time.monotonic() - started)
    return KafkaLease(producer, topic, partition, identity, append_timeout)


def _explain(error: BaseException, timeout: float) -> str:
    if isinstance(error, (ProducerFenced, InvalidProducerEpoch)):
        return "fenced by a newer lease"
    if isinstance(error, MessageSizeTooLargeError):
        return "the commit batch is larger than the journal topic's max.message.bytes"
    if isinstance(error, TimeoutError):
        return f"no acknowledgement within {timeout:g} s, so the outcome is unknown"
    return f"{type(error).__name__}: {error}"
