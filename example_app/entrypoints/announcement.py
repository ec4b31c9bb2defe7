"""What a person wants to know when the application has started."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def base_url(arguments: Sequence[str]) -> str:
    """Where this process listens, as far as its command line tells; an application itself is not told."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", default="8000")
    try:
        known, _ = parser.parse_known_args(arguments)
    except argparse.ArgumentError:
        known = parser.parse_args([])
    host = "127.0.0.1" if known.host in {"0.0.0.0", "::"} else known.host  # noqa: S104  # compared, not bound
    return f"http://{host}:{known.port}"


def announcement(url: str, *, database: str, broker: str, shipping_runs_here: bool) -> str:
    shipping = (
        f"in this process, at {url}/shipping/docs"
        if shipping_runs_here
        else "a process of its own: uvicorn example_app.shipping.app:app --port 8001"
    )
    target = "" if url == "http://127.0.0.1:8000" else f" --url {url}"
    return "\n".join(
        (
            f"The shop is open, with {database} and {broker}.",
            f"  try it          {url}/docs",
            f"  orders          {url}/orders",
            f"  health          {url}/health/ready",
            f"  shipping        {shipping}",
            f"  load and check  python -m example_app.entrypoints.load{target}",
        )
    )


def announce(*, database: str, broker: str, shipping_runs_here: bool) -> None:
    print(
        announcement(base_url(sys.argv[1:]), database=database, broker=broker, shipping_runs_here=shipping_runs_here),
        flush=True,
    )
