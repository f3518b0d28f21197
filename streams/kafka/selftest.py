"""Start-up self-test: the private parts of Faust, mode and aiokafka that we call or override are the ones we know.

We pin exact versions, but an installer can be told otherwise, and a private method that changed its meaning would lose
messages instead of failing. So the worker refuses to start, with a line that names the versions to install.
"""

import inspect
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection
from aiokafka.consumer.fetcher import Fetcher as PartitionFetcher
from aiokafka.consumer.fetcher import FetchResult, PartitionRecords
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.producer.message_accumulator import BatchBuilder, MessageAccumulator
from aiokafka.producer.sender import Sender
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.struct import Struct
from aiokafka.protocol.transaction import InitProducerIdRequest
from faust import App
from faust.app.base import BootStrategy
from faust.assignor.copartitioned_assignor import CopartitionedAssignor
from faust.assignor.partition_assignor import PartitionAssignor
from faust.cli.base import AppCommand
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery
from faust.transport.conductor import Conductor
from faust.transport.consumer import Fetcher
from faust.transport.drivers import aiokafka as driver
from mode.services import ServiceTask
from mode.worker import Worker

from rookery.schemas.errors import IncompatibleVersion

# Distribution -> the version whose sources were read; the same as in pyproject.toml.
PINNED: Mapping[str, str] = {"aiokafka": "0.14.0", "faust-streaming": "0.15.3", "mode-streaming": "0.7.1"}

TASK = "a task"  # a method that mode starts by itself: Service.task
PROPERTY = "a property"
ATTRIBUTE = "an attribute"  # that its class's __init__ sets


class Known(NamedTuple):
    """A method of a class and its parameters without self, or TASK, PROPERTY or ATTRIBUTE."""

    owner: type[Any]
    name: str
    parameters: str


KNOWN = (
    # Overridden by app and services.
    Known(App, "_new_transport", ""),
    Known(App, "_create_directories", ""),
    Known(App, "on_stop", ""),
    Known(App, "_stop_consumer", ""),
    Known(BootStrategy, "server", ""),
    Known(Worker, "_sentinel_task", ""),
    Known(AppCommand, "_Worker", PROPERTY),
    Known(TableManager, "recovery", PROPERTY),
    Known(Recovery, "_restart_recovery", TASK),
    Known(Recovery, "_slurp_changelogs", TASK),
    Known(Recovery, "_publish_stats", TASK),
    Known(Recovery, "flush_buffers", ""),
    Known(Recovery, "_resume_streams", "generation_id"),
    Known(Recovery, "on_rebalance", "assigned revoked newly_assigned generation_id"),
    Known(PartitionAssignor, "_perform_assignment", "cluster member_metadata"),
    Known(PartitionAssignor, "_metadata", PROPERTY),
    Known(PartitionAssignor, "on_assignment", "assignment"),
    Known(PartitionAssignor, "_update_member_urls", "clients_metadata"),
    Known(PartitionAssignor, "_global_table_standby_assignments", "assignments partitions_by_topic"),
    Known(PartitionAssignor, "_get_changelog_distribution", "assignments"),
    Known(PartitionAssignor, "_get_external_topic_distribution", "assignments"),
    Known(CopartitionedAssignor, "__init__", "topics cluster_asgn num_partitions replicas capacity"),
    Known(GroupCoordinator, "request_rejoin", ""),
    Known(AIOKafkaConnection, "send", "request expect_response"),
    Known(AIOKafkaConnection, "_send_sasl_token", "payload expect_response"),
    Known(AIOKafkaConnection, "_writer", ATTRIBUTE),
    Known(Conductor, "on_partitions_assigned", "assigned"),
    # Overridden or called by consumer.
    Known(Fetcher, "_fetcher", TASK),
    Known(driver.Consumer, "_new_consumer_thread", ""),
    Known(driver.Consumer, "_drain_messages", "fetcher"),
    Known(driver.Consumer, "_get_active_partitions", ""),
    Known(driver.Consumer, "_filter_tps_with_pending_acks", "topics"),
    Known(driver.Consumer, "_new_offset", "tp"),
    Known(driver.Consumer, "_should_commit", "tp offset"),
    Known(driver.Consumer, "perform_seek", ""),
    Known(driver.Consumer, "wait_empty", ""),
    Known(driver.Consumer, "verify_event_path", "now tp"),
    Known(driver.Consumer, "seek", "partition offset"),
    Known(driver.Consumer, "pause_partitions", "tps"),
    Known(driver.Consumer, "resume_partitions", "tps"),
    Known(driver.AIOKafkaConsumerThread, "on_start", ""),
    Known(driver.AIOKafkaConsumerThread, "on_thread_stop", ""),
    Known(driver.AIOKafkaConsumerThread, "call_thread", "fun args kwargs"),
    Known(driver.AIOKafkaConsumerThread, "_ensure_consumer", ""),
    Known(driver.AIOKafkaConsumerThread, "_fetch_records", "consumer active_partitions timeout max_records"),
    Known(driver.AIOKafkaConsumerThread, "_commit", "offsets"),
    Known(GroupCoordinator, "_do_heartbeat", ""),
    Known(GroupCoordinator, "_do_rejoin_group", "subscription"),
    Known(GroupCoordinator, "commit_offsets", "assignment offsets"),
    Known(SubscriptionState, "fetch_context", ""),
    Known(PartitionFetcher, "fetched_records", "partitions timeout max_records"),
    Known(PartitionFetcher, "_create_fetch_waiter", ""),
    Known(PartitionFetcher, "_get_actions_per_node", "assignment"),
    *(
        Known(PartitionFetcher, name, ATTRIBUTE)
        for name in ("_records", "_fetch_max_bytes", "_fetch_max_wait_ms", "_prefetch_backoff")
    ),
    Known(PartitionRecords, "_consumer_record", "tp record"),
    Known(PartitionRecords, "_unpack_records", ""),
    *(
        Known(PartitionRecords, name, ATTRIBUTE)
        for name in ("_records", "_check_crcs", "_isolation_level", "_records_iterator", "next_fetch_offset")
    ),
    Known(FetchResult, "getall", "max_records"),
    Known(FetchResult, "check_assignment", "tp"),
    Known(FetchResult, "has_more", ""),
    Known(FetchResult, "_update_position", ""),
    Known(FetchResult, "_partition_records", ATTRIBUTE),
    Known(FetchResult, "_topic_partition", ATTRIBUTE),
    Known(AIOKafkaConsumer, "seek", "partition offset"),
    Known(AIOKafkaConsumer, "getmany", "partitions timeout_ms max_records"),
    # Called by batches, lease, log and reader.
    Known(BatchBuilder, "__init__", "batch_size compression_type is_transactional key_serializer value_serializer"),
    Known(BatchBuilder, "_build", ""),
    Known(BatchBuilder, "_buffer", ATTRIBUTE),
    Known(BatchBuilder, "_relative_offset", ATTRIBUTE),
    Known(BatchBuilder, "_closed", ATTRIBUTE),
    Known(MessageAccumulator, "fail_all", "exception"),
    Known(MessageAccumulator, "add_batch", "builder tp timeout"),
    Known(AIOKafkaProducer, "send_batch", "batch topic partition"),
    Known(Sender, "_send_produce_req", "node_id batches"),
    Known(AIOKafkaClient, "coordinator_lookup", "coordinator_type coordinator_key"),
    Known(AIOKafkaClient, "send", "node_id request group"),
    Known(ProduceRequest, "build", "request_struct_class"),
    Known(Struct, "encode", ""),
    Known(AIOKafkaClient, "add_topic", "topic"),
    Known(AIOKafkaClient, "force_metadata_update", ""),
    Known(AIOKafkaClient, "get_random_node", ""),
    Known(InitProducerIdRequest, "__init__", "transactional_id transaction_timeout_ms"),
)


def check() -> None:
    """Raise IncompatibleVersion, naming the versions to install, unless everything is as we know it."""
    wrong = [*wrong_versions(PINNED), *wrong_parts(KNOWN)]
    if wrong:
        install = " ".join(f"{name}=={number}" for name, number in PINNED.items())
        raise IncompatibleVersion("the ground under Rookery", "; ".join(wrong), f"pip install {install}")


def wrong_versions(pinned: Mapping[str, str]) -> list[str]:
    """Installed distributions that are not the pinned ones, in words."""
    return [f"{name} {found}" for name, wanted in pinned.items() if (found := _installed(name)) != wanted]


def wrong_parts(known: Iterable[Known]) -> list[str]:
    """Methods and attributes that are not as we know them, in words."""
    return [
        f"{part.owner.__module__}.{part.owner.__name__}.{part.name} is {found} instead of {_call(part.parameters)}"
        for part in known
        if (found := _shape(part.owner, part.name)) != _call(part.parameters)
    ]


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _call(parameters: str) -> str:
    return parameters if parameters in (TASK, PROPERTY, ATTRIBUTE) else f"({', '.join(parameters.split())})"


def _shape(owner: type[Any], name: str) -> str:
    member = inspect.getattr_static(owner, name, None)
    if member is None:
        return ATTRIBUTE if name in owner.__init__.__code__.co_names else "missing"
    if isinstance(member, property):
        return PROPERTY
    if isinstance(member, ServiceTask):
        return TASK
    names = list(inspect.signature(member).parameters)
    return f"({', '.join(names[1:])})"
