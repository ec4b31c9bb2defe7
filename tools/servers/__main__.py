"""The command `python -m tools.servers`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.servers.errors import ServerError
from tools.servers.fleet import Servers
from tools.servers.outside import VARIABLES
from tools.servers.state import NAMES, Name, Server


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status: 0, or 1 after a sentence on standard error that says what went wrong."""
    options = _parser().parse_args(arguments)
    servers = Servers(folder=options.state) if options.state else Servers()
    names: list[Name] = options.names or list(NAMES)
    commands = {"start": _start, "stop": _stop, "status": _status, "env": _env}
    try:
        if options.command == "restart":
            return _restart(servers, names, crash=options.crash)
        return commands[options.command](servers, names)
    except ServerError as error:
        print(error, file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.servers", description="PostgreSQL and Kafka for this checkout"
    )
    parser.add_argument("command", choices=("start", "stop", "restart", "status", "env"))
    parser.add_argument("names", nargs="*", type=_name, metavar="postgres|kafka", help="both, if none is named")
    parser.add_argument("--state", type=Path, help="the folder of state and data (default: .servers in the checkout)")
    parser.add_argument("--crash", action="store_true", help="restart: kill the server instead of asking it to stop")
    return parser


def _name(given: str) -> Name:
    for name in NAMES:
        if name == given:
            return name
    raise argparse.ArgumentTypeError(f"{given!r} is no server; write postgres or kafka")


def _start(servers: Servers, names: list[Name]) -> int:
    for name in names:
        print(f"{servers.start(name)} is running", flush=True)
    return 0


def _stop(servers: Servers, names: list[Name]) -> int:
    for name in names:
        print(f"{name} {'is stopped' if servers.stop(name) else 'was not running'}", flush=True)
    return 0


def _restart(servers: Servers, names: list[Name], *, crash: bool) -> int:
    for name in names:
        print(f"{servers.restart(name, crash=crash)} is running again", flush=True)
    return 0


def _status(servers: Servers, names: list[Name]) -> int:
    for name in names:
        print(servers.running(name) or f"{name}: not running")
    return 0


def _env(servers: Servers, names: list[Name]) -> int:
    """Prints lines for `eval "$(python -m tools.servers env)"`; fails if one of the servers does not run."""
    found: list[tuple[Name, Server | None]] = [(name, servers.running(name)) for name in names]
    for name, server in found:
        if server is None:
            print(f"{name} is not running: python -m tools.servers start {name}", file=sys.stderr)
            continue
        print(f"export {VARIABLES[name]}={shlex.quote(server.url)}")
    return 0 if all(server for _, server in found) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
