"""Ids of messages; `_ids.pyx` is the compiled twin."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from rookery.schemas import native


def id_source(prefix: str) -> Callable[[], str]:
    """Makes ids: unique by an ASCII `prefix`, which must be that of one process only, and cheap by a counter."""
    numbers = itertools.count()
    return lambda: prefix + str(next(numbers))


if (_compiled := native.load("rookery.schemas._ids")) is not None:
    id_source = _compiled.IdSource
