"""Which settings fit together: relations between the fields of `Settings`, and what bounds alone can't say of one.

Each relation is checked at its later field, so that it is reported together with whatever else is wrong.
"""

from __future__ import annotations

import math
from typing import Any, Final

from pydantic import SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings

from rookery.ops import tls
from rookery.ops.servers import addresses

NATS: Final = "nats://"
"""How the broker of a client begins that talks through the NATS edge."""
RECORD_OVERHEAD_BYTES: Final = 100_000
"""What the frame of a journal batch (record headers, `~pos`) may add to `batch_bytes_max`."""
TOKEN_CHARS_MIN: Final = 16
_TLS_FILES: Final = ("ca_file", "certificate_file", "key_file")
_LIMITED_BY: Final = {
    # field: (earlier field, share of it, margin taken off)
    "min_insync_replicas": ("replication_factor", 1.0, 0),
    "heartbeat_interval": ("session_timeout", 1 / 3, 0),
    "batch_bytes_max": ("topic_bytes_max", 1.0, RECORD_OVERHEAD_BYTES),
    "message_bytes_max": ("batch_bytes_max", 1.0, 0),
}


class Rules(BaseSettings):
    """The base of `Settings`; its fields are there."""

    @field_validator("broker", check_fields=False)
    @classmethod
    def _clean_broker(cls, value: str) -> str:
        cleaned = addresses.bootstrap(value)
        if not cleaned:
            raise ValueError("no server in it")
        addresses.endpoints(cleaned, 9092)
        if "@" in cleaned:
            login = "nats_url" if value.startswith(NATS) else "broker_user and broker_password"
            raise ValueError(f"user and password belong into {login}")
        return cleaned

    @field_validator(
        "min_insync_replicas", "heartbeat_interval", "batch_bytes_max", "message_bytes_max", check_fields=False
    )
    @classmethod
    def _fits(cls, value: float | None, info: ValidationInfo) -> float | None:
        other, share, margin = _LIMITED_BY[str(info.field_name)]
        # A default that depends on the cluster is known later.
        base = info.data.get(other)
        if value is not None and base is not None and value > (limit := base * share - margin):
            raise ValueError(f"with {other} {base:.10g} at most {limit:.10g} is allowed")
        return value

    @field_validator("weight_net", check_fields=False)
    @classmethod
    def _adds_up(cls, value: float, info: ValidationInfo) -> float:
        others = [info.data.get(name) for name in ("weight_cpu", "weight_mem")]
        if None not in others and not math.isclose(total := sum(filter(None, [value, *others])), 1.0, abs_tol=1e-6):
            raise ValueError(f"weight_cpu, weight_mem and weight_net must add up to 1, not {total:.10g}")
        return value

    @field_validator("static_membership", check_fields=False)
    @classmethod
    def _named(cls, value: bool, info: ValidationInfo) -> bool:
        if value and "agent_id" in info.data and not info.data["agent_id"]:
            raise ValueError("needs an agent_id (AGENT_ID), another one for each worker")
        return value

    @field_validator("broker_sasl", check_fields=False)
    @classmethod
    def _no_password_in_the_clear(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value and info.data.get("broker_tls") is False and info.data.get("allow_plaintext_sasl") is False:
            raise ValueError(
                "without TLS everybody on the way could read along: set broker_tls, or allow_plaintext_sasl"
            )
        return value

    @field_validator("broker_user", "broker_password", check_fields=False)
    @classmethod
    def _with_sasl_only(cls, value: Any, info: ValidationInfo) -> Any:
        if "broker_sasl" in info.data and bool(value) != bool(info.data["broker_sasl"]):
            raise ValueError("is not used without broker_sasl" if value else "must be set, since broker_sasl is")
        return value

    @field_validator("broker_key_password", "redis_key_password", "nats_key_password", check_fields=False)
    @classmethod
    def _tls_works(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        server = str(info.field_name).partition("_")[0]
        files = {f"{server}_{name}": info.data.get(f"{server}_{name}") for name in _TLS_FILES}
        given = [name for name, path in files.items() if path]
        if value:
            given.append(str(info.field_name))
        if server == "broker":
            on, switch = info.data.get("broker_tls"), "broker_tls"
        else:
            scheme = {"redis": "rediss", "nats": "tls"}[server]
            on = str(info.data.get(f"{server}_url")).startswith(scheme)
            switch = f"a {server}_url with {scheme}://"
        if given and not on:
            raise ValueError(f"{', '.join(given)} would not be used: TLS needs {switch}")
        if given and not files[f"{server}_certificate_file"] and given != [f"{server}_ca_file"]:
            raise ValueError(f"a key is no use without {server}_certificate_file")
        if on:
            ca, certificate, key = files.values()
            tls.context(ca, certificate, key, value.get_secret_value() if value else "")
        return value

    @field_validator("redis_url", check_fields=False)
    @classmethod
    def _no_switches(cls, value: str | None) -> str | None:
        # What the query says beats arguments, so that `?ssl_cert_reqs=none` would end all checks.
        if value and "ssl_" in value.partition("?")[2]:
            raise ValueError("TLS is set by the redis_..._file settings, not in the URL; its checks are always on")
        return value

    @field_validator("redis_user", "redis_password", check_fields=False)
    @classmethod
    def _in_one_place(cls, value: Any, info: ValidationInfo) -> Any:
        if value and "@" in (info.data.get("redis_url") or ""):
            raise ValueError("the redis_url names a user or password, too: set them in one place")
        return value

    @field_validator("allow_plaintext_redis", check_fields=False)
    @classmethod
    def _no_redis_password_in_the_clear(cls, value: bool, info: ValidationInfo) -> bool:
        url = info.data.get("redis_url") or ""
        secret = info.data.get("redis_password") or ":" in url.partition("://")[2].rpartition("@")[0]
        if secret and not value and url.startswith(("redis:", "redis+")) and addresses.is_remote(url, 6379):
            raise ValueError("everybody on the way could read the password of Redis: set it, or rediss:// in redis_url")
        return value

    @field_validator("web_token", check_fields=False)
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not (
            len(value) >= TOKEN_CHARS_MIN and (text := value.get_secret_value()).isascii() and text.isprintable()
        ):
            raise ValueError(f"must have {TOKEN_CHARS_MIN} printable characters or more: openssl rand -hex 32")
        return value

    @field_validator("allow_open_web", check_fields=False)
    @classmethod
    def _guarded(cls, value: bool, info: ValidationInfo) -> bool:
        host = info.data.get("web_host", "localhost")
        if (
            not value
            and "web_token" in info.data
            and info.data["web_token"] is None
            and not addresses.is_loopback(host)
        ):
            raise ValueError(f"web_host {host} can be reached from outside: set web_token, or this to true")
        return value
