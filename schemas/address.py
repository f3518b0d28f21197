"""Who can be written to, and on which partition they live.

An address is `Type/key` (a virtual agent: it exists as soon as someone writes to it) or the bare uuid4 hex id of a
spawned agent. `nats/<subject>` is a subject of NATS, if the application has an edge there. Clients are no agents: their
names appear only in `reply_to`, as `client:<name>` or `json:<name>`.
"""

from __future__ import annotations

import re
import struct
from functools import lru_cache

from rookery.schemas import native
from rookery.schemas.errors import InvalidAddress

KEY_BYTES_MAX = 200
# What agents write to NATS goes to `nats/<subject>`; no agent class has this name.
NATS_TYPE = "nats"
TYPE_BYTES_MAX = 200
# Distinct addresses remembered per process: 65,536 x about 250 bytes = 16 MB at most.
_CACHE_MAX = 65_536

_SPAWNED = re.compile(r"[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CLIENT = re.compile(r"(client|json):([A-Za-z0-9._-]{1,100})\Z")
_U32 = 0xFFFFFFFF


@lru_cache(maxsize=_CACHE_MAX)
def parse(address: str) -> tuple[str | None, str]:
    """Split an address into (agent type, key); the type of a spawned agent is None, since its journal knows it.

    Raises InvalidAddress saying what is wrong.
    """
    agent_type, slash, key = address.partition("/")
    if not slash:
        if _SPAWNED.match(address):
            return None, address
        raise InvalidAddress(address, "it has no `/` and is not the hex form of a uuid4")
    if not all(part.isidentifier() for part in agent_type.split(".")):
        raise InvalidAddress(address, "the part before the first `/` is no class name")
    if not key:
        raise InvalidAddress(address, "the key after `/` is empty")
    if _CONTROL.search(key):
        raise InvalidAddress(address, "the key has control characters")
    try:
        type_bytes, key_bytes = len(agent_type.encode()), len(key.encode())
    except UnicodeEncodeError:
        raise InvalidAddress(address, "it can't be written as UTF-8") from None
    if key_bytes > KEY_BYTES_MAX or type_bytes > TYPE_BYTES_MAX:
        raise InvalidAddress(
            address,
            f"type and key have {type_bytes} and {key_bytes} bytes, allowed are {TYPE_BYTES_MAX} and {KEY_BYTES_MAX}",
        )
    return agent_type, key


def check(address: str) -> str:
    """Return the address of an agent as it is; raises InvalidAddress saying what is wrong."""
    if not isinstance(address, str):
        raise InvalidAddress(address, f"it is a {type(address).__name__}, not a string")
    parse(address)
    return address


def parse_client(name: str) -> tuple[str, str] | None:
    """Split a reply destination into form ("client": envelopes, "json": plain JSON) and name; None if it is none."""
    match = _CLIENT.match(name)
    return (match[1], match[2]) if match else None


def client_address(name: str, form: str = "client") -> str:
    """The reply destination of a client, `client:<name>` or `json:<name>`; raises InvalidAddress for an unfit name."""
    address = f"{form}:{name}"
    if not _CLIENT.match(address):
        raise InvalidAddress(address, "a client is named with 1 to 100 letters, digits, `.`, `_` and `-`")
    return address


@lru_cache(maxsize=_CACHE_MAX)
def partition_of(key: bytes | str, partitions: int) -> int:
    """The partition of a record key among `partitions`: Kafka's default partitioner, so all Kafka clients agree."""
    return (murmur2(key.encode() if isinstance(key, str) else key) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """Kafka's variant of 32-bit MurmurHash2 (its fixed seed), unsigned."""
    m, size = 0x5BD1E995, len(data)
    h = 0x9747B28C ^ size
    whole = size >> 2
    for word in struct.unpack_from(f"<{whole}I", data):
        k = word * m & _U32
        h = h * m & _U32 ^ (k ^ k >> 24) * m & _U32
    if rest := data[whole << 2 :]:
        h = (h ^ int.from_bytes(rest, "little")) * m & _U32
    h = (h ^ h >> 13) * m & _U32
    return h ^ h >> 15


parse_pure, partition_of_pure, murmur2_pure = parse, partition_of, murmur2
if (_compiled := native.load("rookery.schemas._address")) is not None:
    parse, partition_of, murmur2 = _compiled.parse, _compiled.partition_of, _compiled.murmur2
