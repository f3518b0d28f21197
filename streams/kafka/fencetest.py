"""Start-up check that this broker fences: an append of an older lease fails once a newer one has appended.

Everything rests on it, and it is a property of the broker that no version number tells: some Kafka-compatible servers
keep producer epochs for transactions only. Tried on the control topic, under a transactional id of its own; the records
are tombstones, which nobody reads and compaction removes.
"""

from aiokafka import AIOKafkaProducer
from aiokafka.errors import InvalidProducerEpoch, ProducerFenced, TransactionalIdAuthorizationFailed

from rookery.schemas.errors import ConfigurationError, NotFenced
from rookery.streams.kafka.batches import SequencedBatch, deliver, fetch_identity

KEY = b"~fence-test"
FENCED = (InvalidProducerEpoch, ProducerFenced)


async def check_fence(producer: AIOKafkaProducer, app_id: str, topic: str, broker: str, timeout: float) -> None:
    """Raise NotFenced unless the broker refuses the older of two leases; each step is bounded by `timeout` seconds.

    Raises ConfigurationError when the broker does not let us use transactional ids, or another KafkaError. Another
    worker may do the same at the same time: being fenced by it is as good a proof.
    """
    await producer.client.add_topic(topic)
    reserved = f"{app_id}-fence-test"
    try:
        older = await fetch_identity(producer, reserved, timeout)
        for identity in (older, await fetch_identity(producer, reserved, timeout), older):
            batch = SequencedBatch(identity, [(KEY, None)], [])
            identity.advance(1)
            await deliver(producer, topic, 0, batch, timeout)
    except FENCED:
        return
    except TransactionalIdAuthorizationFailed:
        raise ConfigurationError(
            f"the broker does not allow the transactional ids of {app_id}; mend it with: kafka-acls.sh "
            f"--bootstrap-server {broker} --add --allow-principal User:<user> --operation Write --operation Describe "
            f"--transactional-id {app_id}- --resource-pattern-type prefixed"
        ) from None
    raise NotFenced(broker)
