"""Imports once what is slow to import, then starts a server of its own process for every line it reads.

A line is JSON: the port and the environment. The answer is the process id. Nothing is opened before the fork.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path


def main() -> None:
    import uvicorn  # noqa: PLC0415

    import cqrs_fastapi.migrations  # noqa: PLC0415  # the parent must not do this before it has been started

    assert cqrs_fastapi.migrations
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)  # noqa: T201
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.dup2(2, 1)  # its logs must not be taken for answers
            os.environ.update(order["environment"])
            sys.path.insert(0, str(Path(__file__).parent))
            uvicorn.run("ledger:app", port=order["port"], log_level="warning")
            os._exit(0)
        print(pid, flush=True)  # noqa: T201


main()
