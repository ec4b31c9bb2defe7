"""Security and options of `kafka://`: what is refused at the start, and that no secret is ever shown."""

from __future__ import annotations

import inspect
import re
import ssl
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from dependency_injector import providers

from cqrs_fastapi import CQRS, CqrsContainer, Settings
from cqrs_fastapi.brokers.kafka import client, consumer, options, topics
from cqrs_fastapi.brokers.kafka.client import connection
from cqrs_fastapi.brokers.kafka.config import KafkaConfig
from cqrs_fastapi.errors import ConfigurationError
from tools.servers.certificates import Authority

SECRET = "hunter2"  # noqa: S105  # a test's own


class Tokens:
    async def token(self) -> str:
        return SECRET


def parsed(url: str, tokens: Any = None) -> KafkaConfig:
    return KafkaConfig.parse(url, Settings(), tokens)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path)


def test_tls_believes_one_authority_checks_the_host_and_shows_a_certificate(authority: Authority) -> None:
    own = authority.sign("client")
    url = f"kafka://a:1,b:2?security_protocol=SSL&ca_file={authority.file}&certificate_file={own}&client_id=shop"
    arguments = connection(parsed(url))
    context = arguments["ssl_context"]
    assert isinstance(context, ssl.SSLContext)
    assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert [one["subject"] for one in context.get_ca_certs()] == [((("commonName", "tests"),),)]
    assert (arguments["bootstrap_servers"], arguments["client_id"]) == (["a:1", "b:2"], "shop")


def test_a_renewed_certificate_is_taken_up_and_an_old_context_kept_meanwhile(authority: Authority) -> None:
    config = parsed(f"kafka://a:1?security_protocol=SSL&ca_file={authority.file}")
    first = connection(config)["ssl_context"]
    assert connection(config)["ssl_context"] is first
    authority.file.write_bytes(Authority.create(authority.file.parent, "other").file.read_bytes())
    assert connection(config)["ssl_context"] is not first


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_a_password_goes_with_its_mechanism(mechanism: str) -> None:
    config = parsed(f"kafka://me:{SECRET}@far:1?security_protocol=SASL_SSL&sasl_mechanism={mechanism}")
    arguments = connection(config)
    assert arguments["sasl_mechanism"] == mechanism
    assert (arguments["sasl_plain_username"], arguments["sasl_plain_password"]) == ("me", SECRET)
    assert SECRET not in repr(config)


@pytest.mark.anyio
async def test_a_token_comes_from_the_container() -> None:
    class Container(CqrsContainer):
        broker_tokens = providers.Singleton(Tokens)

    url = "kafka://far:1?security_protocol=SASL_SSL&sasl_mechanism=OAUTHBEARER"
    cqrs = CQRS(settings=Settings(broker_url=url), container=Container())
    config = cqrs.broker._config  # type: ignore[attr-defined]
    assert await connection(config)["sasl_oauth_token_provider"].token() == SECRET
    assert "Tokens" not in repr(config)


REFUSED = [
    ("kafka://far:1?security_protocol=SASL_SSL&sasl_mechanism=OAUTHBEARER", "broker_tokens = providers"),
    (f"kafka://me:{SECRET}@far:1?security_protocol=SASL_SSL&sasl_mechanism=OAUTHBEARER", "not with OAUTHBEARER"),
    (f"kafka://me:{SECRET}@far:1?security_protocol=SSL", "a user and a password go with SASL"),
    ("kafka://me@far:1?security_protocol=SASL_SSL", "a user and a password go with SASL"),
    (f"kafka://me:{SECRET}@far:1?security_protocol=SASL_PLAINTEXT", "readable to far:1"),
    (f"kafka://me:{SECRET}@127.0.0.1:1,far:1?security_protocol=SASL_PLAINTEXT", "readable to far:1"),
    (f"kafka://me:{SECRET}@127.0.0.1.evil.test:1?security_protocol=SASL_PLAINTEXT", "readable to"),
    ("kafka://far:1?ca_file=/x", "go with SSL or SASL_SSL"),
    ("kafka://far:1?security_protocol=SSL&ca_file=/nowhere/ca.pem", "is not there"),
    ("kafka://far:1?security_protocol=SSL&ca_file=/dev/null", "holds no certificates"),
    ("kafka://far:1?security_protocol=SSL&key_file=/dev/null", "goes with a certificate_file"),
    ("kafka://far:1?security_protocol=SSL&certificate_file=/dev/null", "no certificate with its key"),
    ("kafka://far:1?security_protocol=SSL&certificate_file=", "is empty"),
    ("kafka://far:1?allow_cleartext_credentials=yes", "true, false"),
    ("kafka://far:1?client_id=a&client_id=b", "given twice"),
    ("kafka://far:1?aiokafka.fetch_min_byte=5", "aiokafka has no option 'fetch_min_byte'; it knows: .*fetch_min_bytes"),
    ("kafka://far:1?aiokafka.fetch_min_bytes=many", "no whole number"),
    ("kafka://far:1?aiokafka.check_crcs=1", "true or false"),
    ("kafka://far:1?aiokafka.acks=0", "cannot be chosen: order and delivery"),
    (f"kafka://far:1?aiokafka.sasl_plain_password={SECRET}", "cannot be chosen: the URL says it"),
]


@pytest.mark.parametrize(("url", "sentence"), REFUSED)
def test_what_cannot_work_is_refused_at_the_start_without_its_secrets(url: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence) as caught:
        parsed(url)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        f"kafka://me:{SECRET}@127.0.0.1:1?security_protocol=SASL_PLAINTEXT",
        f"kafka://me:{SECRET}@[::1]:1,localhost:2?security_protocol=SASL_PLAINTEXT",
        f"kafka://me:{SECRET}@far:1?security_protocol=SASL_PLAINTEXT&allow_cleartext_credentials=true",
        f"kafka://me:{SECRET}@far:1?security_protocol=SASL_PLAINTEXT&sasl_mechanism=SCRAM-SHA-512",
    ],
)
def test_a_password_that_nobody_can_read_may_go_unencrypted(url: str) -> None:
    assert parsed(url).password == SECRET


def test_a_wrong_password_of_a_key_is_not_repeated(authority: Authority) -> None:
    own = authority.sign("client")
    key = load_pem_private_key(own.read_bytes(), password=None)
    encrypted = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"another"))
    own.write_bytes(encrypted + own.read_bytes().partition(b"-----END PRIVATE KEY-----\n")[2])
    with pytest.raises(ConfigurationError, match="key_password") as caught:
        parsed(f"kafka://a:1?security_protocol=SSL&certificate_file={own}&key_password={SECRET}")
    assert SECRET not in str(caught.value)


def test_any_other_option_of_aiokafka_reaches_the_clients_that_have_it() -> None:
    config = parsed(
        "kafka://a:1?aiokafka.fetch_min_bytes=1000&aiokafka.compression_type=gzip&aiokafka.check_crcs=false"
    )
    assert options.options_for(AIOKafkaConsumer, config.driver) == {"fetch_min_bytes": 1000, "check_crcs": False}
    assert connection(config, AIOKafkaProducer)["compression_type"] == "gzip"
    assert not {"fetch_min_bytes", "compression_type"} & connection(config, AIOKafkaClient).keys()
    later = parsed("kafka://a:1?aiokafka.connections_max_idle_ms=7")
    for kind in (AIOKafkaConsumer, AIOKafkaProducer, AIOKafkaAdminClient, AIOKafkaClient):
        assert connection(later, kind)["connections_max_idle_ms"] == 7


def test_no_option_can_be_chosen_that_the_adapter_sets() -> None:
    set_here = {
        name
        for module in (client, consumer, topics)
        for name in re.findall(r"^ +(\w+)=", inspect.getsource(module), flags=re.MULTILINE)
    }
    assert set_here & options._known().keys() <= options._OURS.keys()
    assert connection(KafkaConfig(("a:1",))).keys() <= options._OURS.keys()


def test_every_option_that_is_kept_back_exists() -> None:
    assert options._OURS.keys() <= options._known().keys()
