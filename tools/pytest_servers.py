"""The side of `tests/conftest.py` that faces pytest: servers for one run, demanded tiers, a closing report."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Final

import pytest

from tools.servers import Name, Server, ServerError, Servers, ServerUnavailableError

REQUIRE: Final = "CQRS_REQUIRE_SERVERS"
_TIERS: Final[Mapping[str, Name]] = {"postgresql": "postgres", "postgres": "postgres", "kafka": "kafka"}


def required_servers(demanded: str) -> tuple[Name, ...]:
    """Reads `postgresql,kafka`. A tier that does not exist would otherwise never be missed, so it is an error."""
    wanted = [part.strip() for part in demanded.split(",") if part.strip()]
    if unknown := [tier for tier in wanted if tier not in _TIERS]:
        raise pytest.UsageError(f"{REQUIRE} names {', '.join(unknown)}; it knows postgresql and kafka")
    return tuple(dict.fromkeys(_TIERS[tier] for tier in wanted))


class ServersOfRun:
    """A pytest plugin: servers are started when the first test asks, and left when the run ends.

    A demanded server is started before the first test, and the run fails there if it is missing or an imitation.
    """

    def __init__(self, *, servers: Servers, demanded: str, summary: bool) -> None:
        self._servers = servers
        self._required = required_servers(demanded)
        self._summary = summary
        self._taken: dict[Name, Server] = {}
        self._in_workers: set[str] = set()
        self._stack = ExitStack()

    @classmethod
    def of(cls, config: pytest.Config) -> ServersOfRun:
        """The one of this run; made and registered on the first call."""
        found = config.pluginmanager.get_plugin("cqrs-servers")
        if isinstance(found, cls):
            return found
        is_worker = hasattr(config, "workerinput")  # a process that pytest-xdist started; its parent reports for it
        demanded = "" if is_worker or config.option.collectonly else os.environ.get(REQUIRE, "")
        made = cls(servers=Servers(), demanded=demanded, summary=not is_worker)
        config.pluginmanager.register(made, "cqrs-servers")
        return made

    def take(self, name: Name) -> Server:
        """The server, started if need be. Skips the test, with the reason, where nothing can start one."""
        try:
            return self._take(name)
        except ServerUnavailableError as missing:
            pytest.skip(str(missing))

    def _take(self, name: Name) -> Server:
        if name not in self._taken:
            self._taken[name] = self._stack.enter_context(self._servers.use(name))
        return self._taken[name]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self) -> None:
        for name in self._required:
            try:
                server = self._take(name)
            except ServerError as error:
                raise pytest.UsageError(f"{REQUIRE} demands {name}: {error}") from error
            if not server.real:
                raise pytest.UsageError(f"{REQUIRE} demands a real {name}, and this run has {server}")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output["servers"] = [str(server) for server in self._taken.values()]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: object) -> None:
        self._in_workers.update(getattr(node, "workeroutput", {}).get("servers", ()))

    def pytest_unconfigure(self) -> None:
        self._stack.close()

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._summary:
            return
        used = sorted(self._in_workers.union(str(server) for server in self._taken.values()))
        terminalreporter.section("servers that took part", sep="-")
        for line in used or ["none: no test asked for one"]:
            terminalreporter.line(line)
        if skips := list(_skips(terminalreporter)):
            terminalreporter.section("skipped tests", sep="-")
            for line in skips:
                terminalreporter.line(line)


def _skips(reporter: pytest.TerminalReporter) -> Iterator[str]:
    for report in reporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        yield f"{report.nodeid}: {reason.removeprefix('Skipped: ')}"
