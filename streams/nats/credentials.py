"""The file of a NATS user's JWT and key, as nsc makes it.

Read here, since nats-py never ends reading a file that has a key and no JWT, and ends others with a TypeError.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from rookery.schemas.errors import ConfigurationError

_JWT, _SEED = "BEGIN NATS USER JWT", "BEGIN USER NKEY SEED"


class Credentials:
    """What shows who we are, in the form that nats-py asks for; read again at each connection, so it may be renewed."""

    def __init__(self, path: str) -> None:
        """Raises ConfigurationError when the file can't be used."""
        self._path = path
        self._jwt = _read(path)[0]

    def sign(self, nonce: str) -> bytes:
        """The signature of what the server asks us to sign. Raises OSError, after which nats-py tries again."""
        try:
            self._jwt, keys = _read(self._path)
        except ConfigurationError as error:
            raise OSError(str(error)) from error
        signature: bytes = keys.sign(nonce.encode())
        keys.wipe()
        return base64.b64encode(signature)

    def jwt(self) -> bytes:
        """The user's JWT, of the same reading as the key that signed last."""
        return self._jwt


def _read(path: str) -> tuple[bytes, Any]:
    """JWT and keys; raises ConfigurationError, which says nothing of what is in the file."""
    try:
        import nkeys
    except ImportError:
        raise ConfigurationError("nats_credentials_file needs the package nkeys: pip install 'rookery[nats]'") from None
    try:
        lines = Path(path).read_text(encoding="ascii").splitlines()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise ConfigurationError(f"nats_credentials_file {path} can't be read: {why}") from None
    jwt, seed = (_after(lines, mark) for mark in (_JWT, _SEED))
    if not jwt or not seed:
        raise ConfigurationError(
            f"nats_credentials_file {path} has no user's {'key' if jwt else 'JWT'} in it; make it with "
            "`nsc generate creds`"
        )
    try:
        return jwt, nkeys.from_seed(bytearray(seed))
    except Exception:  # nkeys has errors of its own for some of what can be wrong
        raise ConfigurationError(f"nats_credentials_file {path}: its key is damaged") from None


def _after(lines: list[str], mark: str) -> bytes:
    """The line below the one with a mark; empty without."""
    for number, line in enumerate(lines[:-1]):
        if mark in line:
            return lines[number + 1].strip().encode()
    return b""
