"""Start-up check that this broker fences: an append of an older lease fails once a newer one has appended.

Everything rests on it, and it is a property of the broker that no version number tells: some Kafka-compatible servers
keep producer epochs for transactions only. Tried on the control topic, under a transactional id of its own; the records
are tombstones, which nobody reads and compaction removes.
"""

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    InvalidProducerEpoch,
    ProducerFenced,
    TransactionalIdAuthorizationFailed,
)

from rookery.schemas.errors import ConfigurationError, NotFenced
from rookery.streams.kafka.batches import SequencedBatch, deliver, fetch_identity
from rookery.streams.kafka.security import refused

KEY = b"~fence-test"
FENCED = (InvalidProducerEpoch, ProducerFenced)


def reserved_id(app_id: str) -> str:
    """The transactional id that only this check uses; with the prefix of the leases, so that it tries their rights."""
    return f"{app_id}-journal-fence-test"


async def check_fence(producer: AIOKafkaProducer, app_id: str, topic: str, broker: str, timeout: float) -> None:
    """Raise NotFenced unless the broker refuses the older of two leases; each step is bounded by `timeout` seconds.

    Raises NotAuthorized when the broker does not let us use transactional ids, ConfigurationError when it can't keep
    them, or another KafkaError. Another worker may do the same at the same time: being fenced by it is as good a proof.
    """
    await producer.client.add_topic(topic)
    reserved = reserved_id(app_id)
    try:
        older = await fetch_identity(producer, reserved, timeout)
        for identity in (older, await fetch_identity(producer, reserved, timeout), older):
            batch = SequencedBatch(identity, [(KEY, None)], [])
            identity.advance(1)
            await deliver(producer, topic, 0, batch, timeout)
    except FENCED:
        return
    except GroupCoordinatorNotAvailableError:
        raise ConfigurationError(
            f"the brokers at {broker} have no coordinator for transactional ids after {timeout:g} s: if they are up, "
            "set their transaction.state.log.replication.factor (by default 3) to no more than there are brokers"
        ) from None
    except TransactionalIdAuthorizationFailed as error:
        raise refused(error, f"{reserved} (WRITE)") from error
    raise NotFenced(broker)
