"""Ports that nobody listens on and that no client connection is given by chance."""

from __future__ import annotations

import random
import socket
from pathlib import Path

from tools.servers.errors import ServerError

LOOPBACK = "127.0.0.1"
_LOWEST = 15_000
_TRIES = 200
_given: set[int] = set()
"""By this process, which may not have bound them yet."""


def free_port() -> int:
    """A free TCP port below the range of client ports, another one each time.

    A port from that range could be taken by an outgoing connection while its server restarts; a client that keeps
    trying to reach it could even connect to itself.
    """
    chosen = random.SystemRandom()
    for _ in range(_TRIES):
        port = chosen.randrange(_LOWEST, _lowest_client_port())
        if port not in _given and _can_bind(port):
            _given.add(port)
            return port
    raise ServerError(f"no free port was found on {LOOPBACK} in {_TRIES} tries")


def listening(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _lowest_client_port() -> int:
    limits = Path("/proc/sys/net/ipv4/ip_local_port_range")
    lowest = int(limits.read_text().split()[0]) if limits.exists() else 32_768
    return lowest if lowest > _LOWEST else 32_768
