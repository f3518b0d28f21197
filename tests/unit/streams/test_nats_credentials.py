"""Files of NATS credentials: what is wrong with one is said, without what is in it; a good one signs."""

from __future__ import annotations

import base64
from pathlib import Path

import nkeys
import pytest

from rookery.schemas.errors import ConfigurationError
from rookery.streams.nats.credentials import Credentials
from tests.cluster.nats_jwt import Realm

GOOD = Realm().credentials()
JWT, SEED = GOOD.splitlines()[1], GOOD.splitlines()[5]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "has no user's JWT"),
        (b"\xff\xfe", "it is no text"),
        (SEED.encode(), "has no user's JWT"),
        (GOOD.partition("\n\n")[0].encode(), "has no user's key"),
        (GOOD.partition(SEED)[0].encode(), "has no user's key"),
        (GOOD.replace(SEED, SEED[:20]).encode(), "its key is damaged"),
        (GOOD.replace(SEED, "1" * 58).encode(), "its key is damaged"),
    ],
    ids=["empty", "binary", "bare seed", "half", "cut off", "short seed", "no base32"],  # keys are others in each run
)
def test_a_file_that_can_not_be_used_is_named(text: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "edge.creds"
    path.write_bytes(text)
    with pytest.raises(ConfigurationError, match=said) as raised:
        Credentials(str(path))
    assert str(path) in str(raised.value)
    for secret in (JWT, SEED[:20]):
        assert secret not in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"edge\.creds can't be read: No such file"):
        Credentials(str(tmp_path / "edge.creds"))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_renewed_file_is_read_again_and_a_broken_one_is_tried_again(end: str, tmp_path: Path) -> None:
    path = tmp_path / "edge.creds"
    path.write_text(GOOD, newline=end)
    credentials = Credentials(str(path))

    def signs(seed: str, jwt: str) -> None:
        signature = base64.b64decode(credentials.sign("nonce"))
        assert nkeys.from_seed(bytearray(seed.encode())).verify(b"nonce", signature)
        assert credentials.jwt().decode() == jwt

    signs(SEED, JWT)
    path.write_text("")
    with pytest.raises(OSError, match="has no user's JWT"):
        credentials.sign("nonce")
    other = Realm().credentials()
    path.write_text(other, newline=end)
    signs(other.splitlines()[5], other.splitlines()[1])
