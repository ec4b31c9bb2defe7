"""Serves the shop: `python -m example_app.entrypoints.serve`. A stop by SIGTERM or Ctrl-C drains and exits 0.

uvicorn by itself drains as well and then ends by the signal, which a shell sees as a failure.
"""

from __future__ import annotations

import argparse
import signal
import sys
from types import FrameType

import uvicorn


def main() -> None:
    arguments = argparse.ArgumentParser(description="Serves the shop until it is told to stop.")
    arguments.add_argument("--host", default="127.0.0.1")
    arguments.add_argument("--port", type=int, default=8000)
    chosen = arguments.parse_args()
    # uvicorn raises the signal again after it has shut down; this is who gets it then.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit)
    uvicorn.run("app:app", host=chosen.host, port=chosen.port, access_log=False)


def _exit(_: int, __: FrameType | None) -> None:
    sys.exit(0)


if __name__ == "__main__":
    main()
