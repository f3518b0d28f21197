import inspect
from typing import Any

import pytest

from rookery.schemas import errors, lock_errors, partition_errors
from rookery.schemas.errors import ConfigurationError, RookeryError, UnknownHandler

CLASSES = sorted(
    {
        cls
        for module in (errors, lock_errors, partition_errors)
        for _, cls in inspect.getmembers(module, inspect.isclass)
        if issubclass(cls, RookeryError)
    },
    key=lambda cls: cls.__name__,
)
VALUES: dict[str, Any] = {"int": 3, "float": 1.5, "str": "some text", "object": "0.15", "Iterable[str]": ["a", "b"]}


def made(cls: type[RookeryError]) -> RookeryError:
    if "__init__" not in vars(cls):
        return cls("something that went wrong")
    parameters = inspect.signature(cls).parameters.values()
    return cls(*[VALUES.get(str(p.annotation), "some text") for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD])


@pytest.mark.parametrize("cls", CLASSES)
def test_each_says_something_and_keeps_its_facts(cls: type[RookeryError]) -> None:
    error = made(cls)
    assert len(str(error)) > 10
    if "__init__" in vars(cls):
        assert set(inspect.signature(cls).parameters) <= set(vars(error))


def test_reasons_are_distinct() -> None:
    reasons = [cls.reason for cls in CLASSES]
    assert len(set(reasons)) == len(reasons)


def test_many_problems_are_listed() -> None:
    assert str(ConfigurationError("one")) == "configuration: one"
    error = ConfigurationError(["one", "two"])
    assert error.problems == ("one", "two")
    assert str(error) == "configuration: \n  - one\n  - two"


def test_known_names_are_listed_but_not_all_of_them() -> None:
    assert "there are no handlers" in str(UnknownHandler("A", "Add"))
    assert "handlers are Add, Sub:" in str(UnknownHandler("A", "Mul", ["Sub", "Add"]))
    assert str(UnknownHandler("A", "Mul", [f"m{i:03}" for i in range(99)])).count("m0") == 20
