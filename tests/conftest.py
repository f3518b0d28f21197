"""Real servers for the tests that ask for them: borrowed, or started once and gone at the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rookery.ops import servers

pytest_plugins = ["rookery.testing"]  # the marker `rookery`


@pytest.fixture(scope="session")
def broker() -> Iterator[str]:
    """The address of a real Kafka; a test that asks for it carries the marker ``kafka``."""
    with servers.ensure(kafka=True) as found:
        yield found.broker


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The URL of a real Redis."""
    with servers.ensure(kafka=False, redis=True) as found:
        yield found.redis_url
