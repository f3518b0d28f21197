"""A real Kafka that trusts nobody: TLS, SCRAM, mutual TLS, and an authorizer that allows what it was told to."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rookery.ops.servers import process
from rookery.ops.servers.lifecycle import HOME
from rookery.ops.servers.local_kafka import start_kafka
from tests.certificates import Authority, Issued

PASSWORD = "correct-horse-battery-staple"
FULL, LIMITED = "rookery", "limited"  # users: one may do everything, one nothing but what a test allows

_PROPERTIES = """
listeners=PLAINTEXT://127.0.0.1:{{port}},CONTROLLER://127.0.0.1:{{controller}},SASL://127.0.0.1:{sasl},\
MTLS://127.0.0.1:{mtls},CLEAR://127.0.0.1:{clear}
advertised.listeners=PLAINTEXT://127.0.0.1:{{port}},CONTROLLER://127.0.0.1:{{controller}},SASL://127.0.0.1:{sasl},\
MTLS://127.0.0.1:{mtls},CLEAR://127.0.0.1:{clear}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_SSL,MTLS:SSL,CLEAR:SASL_PLAINTEXT
inter.broker.listener.name=PLAINTEXT
ssl.keystore.type=PEM
ssl.keystore.location={keystore}
ssl.truststore.type=PEM
ssl.truststore.location={truststore}
listener.name.mtls.ssl.client.auth=required
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=false
super.users=User:ANONYMOUS;User:{full};User:CN=client
{jaas}
"""
_MODULE = "org.apache.kafka.common.security"


class SecureKafka(NamedTuple):
    """Addresses of one broker by how it is entered; `plain` belongs to the test itself, which may do everything."""

    plain: str
    sasl: str
    mtls: str
    clear: str
    authority: Authority
    client: Issued

    def login(self, user: str = FULL, mechanism: str = "scram-sha-512", password: str = PASSWORD) -> dict[str, Any]:
        """Settings of a user over TLS."""
        return {
            "broker": self.sasl,
            "broker_tls": True,
            "broker_ca_file": self.authority.ca_file,
            "broker_sasl": mechanism,
            "broker_user": user,
            "broker_password": password,
        }

    def certificate(self) -> dict[str, Any]:
        """Settings of a client that shows a certificate and has no password."""
        return {
            "broker": self.mtls,
            "broker_tls": True,
            "broker_ca_file": self.authority.ca_file,
            "broker_certificate_file": self.client.certificate,
            "broker_key_file": self.client.key,
        }


@contextlib.contextmanager
def secure_kafka(folder: Path) -> Iterator[SecureKafka]:
    """Start it for the block; `folder` takes its certificates."""
    authority = Authority(folder)
    server = authority.issue("broker", hosts=("127.0.0.1",))
    ports = dict(zip(("sasl", "mtls", "clear"), _free_ports(3), strict=True))
    jaas = []
    for listener in ("sasl", "clear"):
        users = " ".join(f'user_{user}="{PASSWORD}"' for user in (FULL, LIMITED))
        prefix = f"listener.name.{listener}"
        jaas.append(f"{prefix}.plain.sasl.jaas.config={_MODULE}.plain.PlainLoginModule required {users};")
        jaas += [
            f"{prefix}.{mechanism}.sasl.jaas.config={_MODULE}.scram.ScramLoginModule required;"
            for mechanism in ("scram-sha-256", "scram-sha-512")
        ]
    properties = _PROPERTIES.format(
        keystore=server.both, truststore=authority.ca_file, full=FULL, jaas="\n".join(jaas), **ports
    )
    scram = []
    for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
        for user in (FULL, LIMITED):
            scram += ["--add-scram", f"{mechanism}=[name={user},password={PASSWORD}]"]
    home = HOME.absolute()
    said: list[str] = []
    place = process.new_folder(home, "kafka", detached=False, progress=said.append)
    try:
        plain = start_kafka(
            place, home, detached=False, progress=said.append, properties=properties, format_options=scram
        )
        at = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
        yield SecureKafka(plain, **at, authority=authority, client=authority.issue("client"))
    finally:
        process.discard(place)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(listener.getsockname()[1]) for listener in listeners]
