"""Operators, accounts and users of NATS, with keys of their own: what nsc makes, without it."""

from __future__ import annotations

import base64
import json
import os
import time
from typing import Any

import nkeys

OPERATOR, ACCOUNT, USER = nkeys.PREFIX_BYTE_OPERATOR, nkeys.PREFIX_BYTE_ACCOUNT, nkeys.PREFIX_BYTE_USER
UNLIMITED = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)

CREDENTIALS = """-----BEGIN NATS USER JWT-----
{jwt}
------END NATS USER JWT------

-----BEGIN USER NKEY SEED-----
{seed}
------END USER NKEY SEED------
"""

# What a server that knows users by their JWTs has instead of a list of them.
AUTHORIZATION = """
operator: "{operator}"
resolver: MEMORY
resolver_preload: {{ {account}: "{account_jwt}" }}
"""


class Nkey:
    """A key, and the right to sign claims with it."""

    def __init__(self, kind: int) -> None:
        self.seed: bytes = nkeys.encode_seed(os.urandom(32), kind)
        self._pair: Any = nkeys.from_seed(bytearray(self.seed))
        self.public: str = self._pair.public_key.decode().rstrip("=")

    def claims(self, subject: str, name: str, nats: dict[str, Any], seconds: float | None = None) -> str:
        """A JWT about somebody, valid for so many seconds or for ever."""
        now = time.time()
        body = {"jti": os.urandom(8).hex(), "iat": int(now), "iss": self.public, "sub": subject, "name": name}
        if seconds is not None:
            body["exp"] = int(now + seconds)
        parts = [{"typ": "JWT", "alg": "ed25519-nkey"}, {**body, "nats": {"version": 2, **nats}}]
        text = ".".join(_base64(json.dumps(part).encode()) for part in parts)
        return f"{text}.{_base64(self._pair.sign(text.encode()))}"


class Realm:
    """An operator with one account."""

    def __init__(self) -> None:
        self._operator, self._account = Nkey(OPERATOR), Nkey(ACCOUNT)

    @property
    def authorization(self) -> str:
        """Lines for the configuration of a server."""
        operator, account = self._operator, self._account
        limits = {**UNLIMITED, "wildcards": True}
        return AUTHORIZATION.format(
            operator=operator.claims(operator.public, "tests", {"type": "operator"}),
            account=account.public,
            account_jwt=operator.claims(account.public, "rookery", {"type": "account", "limits": limits}),
        )

    def credentials(self, seconds: float | None = None) -> str:
        """What a file of credentials of a new user says."""
        user = Nkey(USER)
        claims = {"type": "user", "subs": -1, "data": -1, "payload": -1}
        jwt = self._account.claims(user.public, "edge", claims, seconds)
        return CREDENTIALS.format(jwt=jwt, seed=user.seed.decode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
