"""Encryption and credentials of a connection, checked before the first one is made."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from cqrs_fastapi.brokers.tokens import TokenProvider
from cqrs_fastapi.errors import ConfigurationError

_IN_THE_CLEAR = frozenset({"PLAIN", "OAUTHBEARER"})


class Security(Protocol):
    """What of a configuration is about security."""

    @property
    def servers(self) -> tuple[str, ...]: ...
    @property
    def security_protocol(self) -> str: ...
    @property
    def sasl_mechanism(self) -> str: ...
    @property
    def username(self) -> str | None: ...
    @property
    def password(self) -> str | None: ...
    @property
    def tokens(self) -> TokenProvider | None: ...
    @property
    def ca_file(self) -> str | None: ...
    @property
    def certificate_file(self) -> str | None: ...
    @property
    def key_file(self) -> str | None: ...
    @property
    def key_password(self) -> str | None: ...
    @property
    def allow_cleartext_credentials(self) -> bool: ...


def check_credentials(config: Security) -> None:
    """ConfigurationError for credentials that are missing, too many, or would be readable on their way."""
    sasl, by_token = config.security_protocol.startswith("SASL"), config.sasl_mechanism == "OAUTHBEARER"
    password = config.username is not None and config.password is not None
    if (config.username is None) != (config.password is None) or password != (sasl and not by_token):
        raise ConfigurationError(
            "a user and a password go with SASL and only with it, and not with OAUTHBEARER; "
            "write: kafka://user:password@host:9092?security_protocol=SASL_SSL"
        )
    if sasl and by_token and config.tokens is None:
        raise ConfigurationError(
            "OAUTHBEARER needs somebody who has tokens; write in your container: "
            "broker_tokens = providers.Singleton(MyTokens), with `async def token(self) -> str`"
        )
    if config.security_protocol == "SASL_PLAINTEXT" and config.sasl_mechanism in _IN_THE_CLEAR:
        _refuse_cleartext(config)


def check_files(config: Security) -> None:
    """ConfigurationError for TLS files that cannot be read, or that nothing would use."""
    files = (config.ca_file, config.certificate_file, config.key_file)
    if not config.security_protocol.endswith("SSL"):
        if any(files):
            raise ConfigurationError(
                f"ca_file, certificate_file and key_file go with SSL or SASL_SSL, and security_protocol is "
                f"{config.security_protocol}"
            )
        return
    if config.key_file and not config.certificate_file:
        raise ConfigurationError("a key_file goes with a certificate_file; write both, or one file with both in it")
    context_of(config)


def context_of(config: Security) -> ssl.SSLContext | None:
    """None without TLS. The host's name is always checked, and nothing below TLS 1.2 is spoken."""
    if not config.security_protocol.endswith("SSL"):
        return None
    files = (config.ca_file, config.certificate_file, config.key_file)
    return _context(*files, config.key_password, tuple(_changed(file) for file in files))


@lru_cache(maxsize=8)
def _context(
    ca_file: str | None,
    certificate_file: str | None,
    key_file: str | None,
    key_password: str | None,
    changed: Sequence[int],
) -> ssl.SSLContext:
    """One for the same files, as long as they have not `changed`."""
    del changed  # it is a part of the key alone
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"the ca_file {ca_file!r} holds no certificates in PEM: {_said(error)}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if certificate_file is not None:
        try:
            # A password that is missing would be asked for on the terminal.
            context.load_cert_chain(certificate_file, key_file, lambda: key_password or "")
        except (OSError, ssl.SSLError, ValueError) as error:
            raise ConfigurationError(
                f"certificate_file {certificate_file!r} and key_file {key_file!r} are no certificate with its key in "
                f"PEM, or key_password is another one: {_said(error)}"
            ) from None
    return context


def _changed(file: str | None) -> int:
    if file is None:
        return 0
    try:
        return Path(file).stat().st_mtime_ns
    except OSError as error:
        raise ConfigurationError(f"the file {file!r} of the connection to Kafka is not there: {_said(error)}") from None


def _said(error: Exception) -> str:
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__


def _refuse_cleartext(config: Security) -> None:
    far = [server for server in config.servers if not _is_loopback(server)]
    if far and not config.allow_cleartext_credentials:
        raise ConfigurationError(
            f"{config.sasl_mechanism} over SASL_PLAINTEXT would send the credentials readable to {far[0]}; write "
            "security_protocol=SASL_SSL, or allow_cleartext_credentials=true where something else encrypts"
        )


def _is_loopback(server: str) -> bool:
    host = server.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
