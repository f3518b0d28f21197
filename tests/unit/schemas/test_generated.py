import pytest

from rookery.schemas import generate
from rookery.schemas.envelope_pb2 import Envelope


def test_generated_code_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(["--check"]) == 0, capsys.readouterr().err


def test_the_crc_is_the_last_field_for_ever() -> None:
    numbers = [field.number for field in Envelope.DESCRIPTOR.fields]
    assert max(numbers) == Envelope.DESCRIPTOR.fields_by_name["crc32"].number == 15


def test_the_name_in_the_registry_can_not_clash() -> None:
    assert Envelope.DESCRIPTOR.file.name == "rookery/schemas/envelope.proto"
