"""The digest of a step's arguments: changed ones are noticed when the turn runs again, the same ones are the same."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct
from pydantic import BaseModel

from rookery.agents.steps import _digest


class Inner(BaseModel):
    names: set[str]


class Order(BaseModel):
    number: int
    at: dt.datetime
    inner: Inner
    client: Any = None


class Client:
    """A connection: nobody can tell what is in it."""


class Broken(BaseModel):
    def model_dump(self, **options: Any) -> Any:
        raise RuntimeError("no")


AT = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def order(number: int = 1, **more: Any) -> Order:
    return Order(number=number, at=AT, inner=Inner(names={"a", "b", "c", "d"}), **more)


def struct(**fields: Any) -> Struct:
    message = Struct()
    message.update(fields)
    return message


@pytest.mark.parametrize(
    ("first", "other"),
    [
        (order(), order(2)),
        (order(), order().model_copy(update={"inner": Inner(names={"a"})})),
        ([{"o": order()}], [{"o": order(2)}]),
        (struct(a=1, b=2), struct(a=1, b=3)),
        (order(), struct(a=1)),
    ],
)
def test_other_content_is_another_digest(first: Any, other: Any) -> None:
    assert _digest("s", (first,)) != _digest("s", (other,))


def test_the_same_content_is_the_same_digest() -> None:
    assert _digest("s", (order(client=Client()),)) == _digest("s", (order(client=Client()),))
    assert _digest("s", (struct(a=1, b=2),)) == _digest("s", (struct(b=2, a=1),))
    assert _digest("s", (Broken(),)) == _digest("s", (Broken(),)), "its class has to do"


@pytest.mark.slow
def test_another_process_with_other_hashes_finds_the_same() -> None:
    code = "from tests.unit.agents.test_digests import order, struct, _digest;"
    code += "print(_digest('s', (order(), struct(a=1, b=2, c=3))).hex())"
    digests = {
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(digests) == 1
