"""A real Kafka with TLS and SASL: the right credentials work, wrong ones are refused soon and with the reason."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from cqrs_fastapi.brokers.kafka.broker import KafkaBroker
from cqrs_fastapi.brokers.kafka.config import KafkaConfig
from cqrs_fastapi.errors import UnavailableError
from cqrs_fastapi.testing.contracts.broker import outgoing, publishing, take
from tools.servers.certificates import Authority
from tools.servers.kafka_secured import PASSWORD, USER, Secured

pytestmark = pytest.mark.anyio

WRONG = "a-wrong-one"


class Tokens:
    """Unsigned ones, which this cluster accepts; an expired one it does not."""

    def __init__(self, age: float = 0) -> None:
        self._age, self.given = age, ""

    async def token(self) -> str:
        now = time.time() - self._age
        parts = ({"alg": "none"}, {"sub": USER, "iat": now, "exp": now + 300})
        texts = (base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)
        self.given = ".".join((*texts, ""))
        return self.given


class NoTokens:
    async def token(self) -> str:
        raise RuntimeError(WRONG)


@pytest.fixture(autouse=True)
async def connections_have_ended() -> AsyncIterator[None]:
    """TLS is ended by both sides, and this cluster lets refused ones wait a moment."""
    yield
    await asyncio.sleep(0.5)


def config(kafka: Secured, listener: str, protocol: str, **changed: Any) -> KafkaConfig:
    tls = {"ca_file": str(kafka.authority.file)} if protocol.endswith("SSL") else {}
    return KafkaConfig((kafka.addresses[listener],), security_protocol=protocol, **{**tls, **changed})


def by_password(kafka: Secured, mechanism: str, password: str = PASSWORD, user: str = USER) -> KafkaConfig:
    return config(kafka, "sasl", "SASL_SSL", sasl_mechanism=mechanism, username=user, password=password)


def by_token(kafka: Secured, tokens: Any) -> KafkaConfig:
    return config(kafka, "sasl", "SASL_SSL", sasl_mechanism="OAUTHBEARER", tokens=tokens)


RIGHT = {
    "PLAIN": lambda kafka: by_password(kafka, "PLAIN"),
    "SCRAM-SHA-256": lambda kafka: by_password(kafka, "SCRAM-SHA-256"),
    "SCRAM-SHA-512": lambda kafka: by_password(kafka, "SCRAM-SHA-512"),
    "OAUTHBEARER": lambda kafka: by_token(kafka, Tokens()),
    "client certificate": lambda kafka: config(kafka, "mutual", "SSL", certificate_file=str(kafka.client)),
    "PLAIN without TLS on this machine": lambda kafka: config(
        kafka, "plain", "SASL_PLAINTEXT", username=USER, password=PASSWORD
    ),
}


@pytest.mark.parametrize("kind", RIGHT)
async def test_the_right_credentials_send_and_receive(secured_kafka: Secured, kind: str) -> None:
    broker, topic = KafkaBroker(RIGHT[kind](secured_kafka)), f"secured-{uuid4().hex}"
    await broker.open()
    await broker.ping()
    await broker.ensure_topics([topic])
    async with publishing(broker, [outgoing(topic, "k", b"1")]):
        subscription = await broker.subscribe(uuid4().hex, [topic])
        assert [message.payload for message in await take(subscription, 1)] == [b"1"]
    await broker.close()


def other_authority(kafka: Secured) -> str:
    return str(Authority.create(Path(kafka.authority.folder), uuid4().hex).file)


REFUSED = {
    "wrong password": (lambda kafka: by_password(kafka, "PLAIN", WRONG), "refuses the password of the user 'alice'"),
    "wrong password by SCRAM": (lambda kafka: by_password(kafka, "SCRAM-SHA-512", WRONG), "refuses the password"),
    "unknown user": (lambda kafka: by_password(kafka, "SCRAM-SHA-256", user="bob"), "password of the user 'bob'"),
    "expired token": (lambda kafka: by_token(kafka, Tokens(age=9000)), "refuses the token"),
    "no token": (lambda kafka: by_token(kafka, NoTokens()), "the token provider raised RuntimeError"),
    "wrong authority": (
        lambda kafka: config(kafka, "sasl", "SSL", ca_file=other_authority(kafka)),
        "certificate is not accepted",
    ),
    "authorities of the system": (lambda kafka: config(kafka, "sasl", "SSL", ca_file=None), "not accepted.*ca_file"),
    "expired certificate": (lambda kafka: config(kafka, "expired", "SSL"), "certificate has expired"),
    "another host": (lambda kafka: config(kafka, "elsewhere", "SSL"), "IP address mismatch"),
    "no client certificate": (lambda kafka: config(kafka, "mutual", "SSL"), "expects a certificate_file"),
    "a stranger's client certificate": (
        lambda kafka: config(
            kafka,
            "mutual",
            "SSL",
            certificate_file=str(Authority.create(kafka.authority.folder, uuid4().hex).sign("client")),
        ),
        "TLS failed|expects a certificate_file",
    ),
    "no TLS": (lambda kafka: KafkaConfig((kafka.addresses["sasl"],)), "expects TLS or credentials"),
    "TLS without credentials": (lambda kafka: config(kafka, "sasl", "SSL"), "expects a certificate_file, credentials"),
    "TLS where there is none": (lambda kafka: config(kafka, "plain", "SSL"), "or no TLS"),
}


@pytest.mark.parametrize("kind", REFUSED)
async def test_wrong_ones_are_refused_in_bounded_time_with_the_reason_and_without_secrets(
    secured_kafka: Secured, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    make, sentence = REFUSED[kind]
    made = make(secured_kafka)
    broker = KafkaBroker(made)
    caplog.set_level(logging.DEBUG)
    async with asyncio.timeout(30):  # nothing of it waits for ever
        with pytest.raises(UnavailableError, match=sentence):
            await broker.ping()
        with pytest.raises(UnavailableError, match=sentence):
            await broker.ensure_topics(["any"])
        publisher = await broker.publisher()
        with pytest.raises(UnavailableError, match=sentence):
            await publisher.publish([outgoing("any", "k", b"1")])
        subscription = await broker.subscribe("any", ["any"])
        with pytest.raises(UnavailableError, match=sentence):
            await subscription.receive()
    await broker.close()
    secrets = [WRONG, PASSWORD, getattr(made.tokens, "given", "") or WRONG]
    assert not [secret for secret in secrets if secret in caplog.text or secret in repr(made)]
