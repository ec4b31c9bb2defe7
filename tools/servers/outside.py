"""Servers that somebody else runs and names by an environment variable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tools.servers import kafka
from tools.servers.errors import ServerError
from tools.servers.sql import version_at, with_driver
from tools.servers.state import Name, Record, Server

VARIABLES: Final[Mapping[Name, str]] = {"postgres": "POSTGRES_URL", "kafka": "KAFKA_BOOTSTRAP"}


def from_environment(name: Name, environment: Mapping[str, str], record: Record | None) -> Server | None:
    """The server that the environment names, if it names one; raises `ServerError` if that one does not answer.

    A variable that names our own server, as `python -m tools.servers env` prints it, is no outside server: a mock
    must not pass for a real broker by that way.
    """
    url = environment.get(VARIABLES[name])
    if not url or (record is not None and record.started.server.url == url):
        return None
    return _postgres(url) if name == "postgres" else _kafka(url)


def _postgres(url: str) -> Server:
    url = with_driver(url)
    try:
        return Server("postgres", "environment", version_at(url), url)
    except ServerError as error:
        raise _silent("postgres", url, f": {error}") from error


def _kafka(url: str) -> Server:
    if not kafka.answers(url):
        raise _silent("kafka", url, "")
    if kafka.has_controller(url):
        return Server("kafka", "environment", "", url)
    return Server(
        "kafka", "environment", "", url, real=False, note="it names no controller, so it is librdkafka's mock"
    )


def _silent(name: Name, url: str, reason: str) -> ServerError:
    variable = VARIABLES[name]
    return ServerError(f"{variable} names {_place(url)}, which gives no answer; start it or unset {variable}{reason}")


def _place(url: str) -> str:
    """The URL without user and password, fit for a log."""
    return url.rpartition("@")[2].rpartition("//")[2]
