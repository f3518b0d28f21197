"""Real servers for tests that ask for them, how many examples property tests try, and what is no quick test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from rookery.ops import servers
from rookery.schemas import native

pytest_plugins = ["rookery.testing"]  # the marker `rookery`

# A machine under load is no reason to fail. `make test` runs the property tests once more with --hypothesis-profile.
settings.register_profile("quick", max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", parent=settings.get_profile("quick"), max_examples=200)
settings.load_profile("quick")

NOT_COMPILED = "nothing is compiled: there was no C compiler, or ROOKERY_PURE=1 says so"
# `make test-fast` does not even import these, so nothing in them is quick.
APART = [Path(__file__).parent / name for name in ("cluster", "containers", "house")]


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs servers or builds packages takes its time; what takes longest begins, so that it doesn't end alone."""
    for item in items:
        if any(folder in item.path.parents for folder in APART):
            item.add_marker(pytest.mark.slow)
        needed, reason = ("pure", "`make test-pure` runs it") if native.in_use() else ("compiled", NOT_COMPILED)
        if item.get_closest_marker(needed):
            item.add_marker(pytest.mark.skip(reason=reason))
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


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
