"""An Apache Kafka of one's own with TLS and SASL, and listeners whose certificates are wrong on purpose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tools.servers import kafka_apache
from tools.servers.certificates import Authority
from tools.servers.kafka import spawn_ready
from tools.servers.kafka_apache import Listener
from tools.servers.ports import LOOPBACK, free_port

USER, PASSWORD = "alice", "alice-knows-it"
_MODULES = "org.apache.kafka.common.security"
_MECHANISMS = "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER"


@dataclass(frozen=True, slots=True)
class Secured:
    """Addresses by what they are: `sasl` and `mutual` are in order, `expired` and `elsewhere` are not, `plain` asks for
    a password without encryption. `client` is a certificate with its key that `mutual` accepts.
    """

    addresses: Mapping[str, str]
    authority: Authority
    client: Path


@contextmanager
def secured(folder: Path) -> Iterator[Secured]:
    """Runs for the time of the block. Raises ServerUnavailableError where Apache Kafka cannot be had."""
    authority = Authority.create(folder)
    listeners = [
        _listener("sasl", "SASL_SSL", {**_tls(authority, authority.sign("server")), **_sasl()}),
        _listener("mutual", "SSL", {**_tls(authority, authority.sign("mutual")), "ssl.client.auth": "required"}),
        _listener("expired", "SSL", _tls(authority, authority.sign("expired", expired=True))),
        _listener("elsewhere", "SSL", _tls(authority, authority.sign("elsewhere", host="kafka.elsewhere.test"))),
        _listener("plain", "SASL_PLAINTEXT", _sasl()),
    ]
    users = [f"{mechanism}=[name={USER},password={PASSWORD}]" for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512")]
    log = folder / "kafka.log"
    launch, url = kafka_apache.prepare(folder, log, listeners=listeners, users=users)
    process = spawn_ready(launch, url)
    try:
        addresses = {one.name.lower(): f"{LOOPBACK}:{one.port}" for one in listeners}
        yield Secured(addresses, authority, authority.sign("client"))
    finally:
        process.crash()


def _listener(name: str, protocol: str, properties: Mapping[str, str]) -> Listener:
    return Listener(name.upper(), protocol, free_port(), properties)


def _tls(authority: Authority, certificate: Path) -> dict[str, str]:
    return {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(certificate),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(authority.file),
    }


def _sasl() -> dict[str, str]:
    scram = f"{_MODULES}.scram.ScramLoginModule required;"
    return {
        "sasl.enabled.mechanisms": _MECHANISMS,
        "plain.sasl.jaas.config": f'{_MODULES}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";',
        "scram-sha-256.sasl.jaas.config": scram,
        "scram-sha-512.sasl.jaas.config": scram,
        # Tokens are checked for their form and their time, and not for a signature.
        "oauthbearer.sasl.jaas.config": (
            f'{_MODULES}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="{USER}";'
        ),
    }
