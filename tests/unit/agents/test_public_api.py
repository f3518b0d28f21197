import subprocess
import sys

import pytest

import rookery
from rookery.agents import errors as agents_errors
from rookery.schemas import errors, lock_errors, partition_errors


def test_every_name_is_there() -> None:
    for name in set(rookery.__all__) - {"App", "Client", "Settings"}:
        assert getattr(rookery, name) is not None
    assert rookery.Settings.__module__ == "rookery.ops.settings"
    assert tuple(rookery.Priority) == (rookery.LOW, rookery.NORMAL, rookery.HIGH)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = rookery.Nothing


def test_importing_the_api_loads_no_driver() -> None:
    program = (
        "import sys, rookery\n"
        "heavy = {'faust', 'aiokafka', 'redis', 'prometheus_client', 'pydantic', 'asyncio'} & set(sys.modules)\n"
        "sys.exit(f'loaded {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr


def test_errors_are_of_one_tree_and_have_codes_of_their_own() -> None:
    found = [
        value
        for module in (errors, lock_errors, partition_errors, agents_errors)
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, errors.RookeryError)
    ]
    assert len({cls.reason for cls in set(found)}) == len(set(found))
