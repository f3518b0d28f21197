"""Rights on the Kafka that trusts nobody: given, taken, and an application that somebody who may has made."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclBinding, AclBindingFilter, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType

from rookery.ops.settings import Settings
from rookery.streams.kafka import security, topics
from tests.cluster.secure_kafka import LIMITED, SecureKafka
from tests.cluster.test_agents_on_kafka import ROOT
from tests.programs import run

KINDS = {
    "topic": ResourceType.TOPIC,
    "group": ResourceType.GROUP,
    "transactional-id": ResourceType.TRANSACTIONAL_ID,
}
_FILTER: Any = AclBindingFilter  # its stub does not know that None stands for any
EVERY = _FILTER(ResourceType.ANY, None, ResourcePatternType.ANY, None, None, AclOperation.ANY, AclPermissionType.ANY)


class Authorizer:
    """Gives and takes rights, as the super user of the broker."""

    def __init__(self, broker: str) -> None:
        self._admin = AdminClient({"bootstrap.servers": broker})

    def give(self, forms: list[dict[str, Any]]) -> None:
        bindings = [self._binding(AclBinding, form, operation) for form in forms for operation in form["operations"]]
        for done in self._admin.create_acls(bindings).values():
            done.result(30)
        self._until(lambda found: all(str(binding) in found for binding in bindings))

    def take(self, form: dict[str, Any]) -> None:
        bindings = [self._binding(AclBindingFilter, form, operation) for operation in form["operations"]]
        for done in self._admin.delete_acls(bindings).values():
            (gone,) = done.result(30)
            self._until(lambda found, gone=str(gone): gone not in found)  # type: ignore[misc]

    def take_all(self) -> None:
        for done in self._admin.delete_acls([EVERY]).values():
            done.result(30)
        self._until(lambda found: not found)

    def _until(self, holds: Callable[[set[str]], bool]) -> None:
        """The controller has answered; the broker hears of it a moment later."""
        for _ in range(200):
            if holds({str(binding) for binding in self._admin.describe_acls(EVERY).result(30)}):
                return
            time.sleep(0.05)
        pytest.fail("the broker does not know its rights")

    @staticmethod
    def _binding(kind: type, form: dict[str, Any], operation: str) -> Any:
        pattern = ResourcePatternType[form["pattern"].upper()]
        allow = AclPermissionType.ALLOW
        return kind(
            KINDS[form["resource"]], form["name"], pattern, form["principal"], "*", AclOperation[operation], allow
        )


@contextmanager
def application(secure: SecureKafka, **more: Any) -> Iterator[str]:
    """The name of one whose topics exist for the block; `more` are settings."""
    settings = Settings.load(app_id=f"acl-{uuid.uuid4().hex[:8]}", broker=secure.plain, partitions=4, **more)
    asyncio.run(topics.ensure(settings, security.client_kwargs(settings)))
    yield settings.app_id
    asyncio.run(topics.remove(settings.app_id, security.client_kwargs(settings)))


def printed(app_id: str, role: str, *options: str, **more: str) -> str:
    """What the command prints, without any server; `more` are variables of its environment."""
    environment = {**os.environ, **more, "ROOKERY_APP_ID": app_id, "ROOKERY_BROKER": "127.0.0.1:1"}
    words = ("faust", "-A", "tests.cluster.small_app", "topics", "acls", "--role", role)
    done = run(*words, "--principal", f"User:{LIMITED}", *options, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout
