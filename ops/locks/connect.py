"""The one place where a Redis connection is made: one server, Sentinel, Cluster; see `connect` for the URLs.

It is imported at the first use of a lock.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import unquote, urlsplit

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import AuthenticationError, AuthorizationError, NoPermissionError, RedisError, ResponseError

from rookery.ops.servers.addresses import endpoints
from rookery.ops.settings import Settings
from rookery.schemas.errors import ConfigurationError

Client = Redis | RedisCluster

SENTINEL: Final = "+sentinel"
CLUSTER: Final = "+cluster"
ERRORS: Final = (RedisError, OSError, TimeoutError)
"""What a command to a Redis raises that is away, slow, or refuses it."""
# What a Redis says when a script calls a command, or touches a key, that its user may not: up to 7.0, and since.
_NO_RIGHTS: Final = ("The user executing the script can't", "ACL failure in script")


def connect_by(settings: Settings) -> Client:
    """The client that the settings describe; raises ConfigurationError when they name no Redis."""
    if settings.redis_url is None:
        raise ConfigurationError(
            "redis_url (ROOKERY_REDIS_URL or REDIS_URL) must be set: locks and limits need a Redis"
        )
    return connect(settings.redis_url, settings.redis_timeout, **credentials(settings))


def credentials(settings: Settings) -> dict[str, Any]:
    """redis-py's options for what stands beside the URL: ACL user and TLS, whose checks are always on."""
    found: dict[str, Any] = {}
    if settings.redis_user is not None:
        found["username"] = settings.redis_user
    if settings.redis_password is not None:
        found["password"] = settings.redis_password.get_secret_value()
    if (settings.redis_url or "").startswith("rediss"):
        password = settings.redis_key_password
        found |= {
            "ssl_cert_reqs": "required",
            "ssl_check_hostname": True,
            "ssl_ca_certs": settings.redis_ca_file,
            "ssl_certfile": settings.redis_certificate_file,
            "ssl_keyfile": settings.redis_key_file,
            "ssl_password": password.get_secret_value() if password is not None else None,
        }
    return found


def connect(url: str, timeout: float, **options: Any) -> Client:
    """A client that connects at its first command; a command or a connection takes up to `timeout` seconds.

        redis://[user:password@]host:6379[/database]
        redis+sentinel://[user:password@]host1:26379,host2:26379/service[/database]
        redis+cluster://[user:password@]host1:6379,host2:6379

    `rediss` for TLS, `unix` for a socket. Nothing is sent twice by itself: whoever asks decides whether to try again.
    `options` are redis-py's, such as those for TLS. Raises ConfigurationError, without the URL: it may hold a password.
    """
    options = {"socket_timeout": timeout, "socket_connect_timeout": timeout, **options}
    scheme = url.partition("://")[0]
    try:
        if not scheme.endswith((SENTINEL, CLUSTER)):
            return Redis.from_url(url, retry=_never(), **options)
        parts = urlsplit(url)
        options |= {name: unquote(value) for name in ("username", "password") if (value := getattr(parts, name))}
        if scheme.startswith("rediss"):
            options["ssl"] = True
        if scheme.endswith(SENTINEL):
            return _sentinel(url, parts.path, options)
        nodes = [ClusterNode(host, port) for host, port in endpoints(url, 6379)]
        # One more try: the first error makes it look where the slots are now.
        return RedisCluster(startup_nodes=nodes, retry=Retry(NoBackoff(), 1), **options)
    except ValueError as error:
        raise ConfigurationError(f"redis_url: {error}") from None


def _sentinel(url: str, path: str, options: dict[str, Any]) -> Redis:
    service, _, database = path.strip("/").partition("/")
    if not service:
        raise ValueError("the name of the service is missing: redis+sentinel://host:26379/service")
    # User and password are the servers'; Sentinels are asked for addresses only.
    ours = {name: value for name, value in options.items() if name not in {"username", "password"}}
    make: Any = Sentinel
    sentinel = make(endpoints(url, 26379), sentinel_kwargs={**ours, "retry": _never()}, retry=_never(), **options)
    client: Redis = sentinel.master_for(service, db=int(database or 0))
    return client


def _never() -> Retry:
    return Retry(NoBackoff(), 0)


async def disconnect(client: Client) -> None:
    """Close it, with the clients by which it asks Sentinels."""
    await client.aclose()
    pool = getattr(client, "connection_pool", None)
    if isinstance(pool, SentinelConnectionPool):
        for sentinel in pool.sentinel_manager.sentinels:
            await sentinel.aclose()


def script(client: Client, text: str) -> AsyncScript:
    """A script that is sent by its hash, and as text to a Redis that doesn't know it yet."""
    make: Any = AsyncScript  # its annotation leaves out RedisCluster
    prepared: AsyncScript = make(client, text)
    return prepared


def refuses(error: BaseException) -> bool:
    """Whether Redis answered that we may not do this."""
    return isinstance(error, AuthenticationError | AuthorizationError | NoPermissionError) or (
        isinstance(error, ResponseError) and any(text in str(error) for text in _NO_RIGHTS)
    )
