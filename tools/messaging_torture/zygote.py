"""Imports once what is slow to import, then forks a process for every line that it reads.

A line is JSON: the command, its environment, its log, and the mutation to apply before it runs; the answer is the
process id. Nothing is opened before the fork. When its input ends, as it does when its parent ends, all end with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence


def main() -> None:
    _load()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them: the system reaps
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become(order["command"], order["environment"], order["log"], order["mutation"])
        print(pid, flush=True)
    os.killpg(0, signal.SIGKILL)


def _load() -> None:
    """Everything that does not depend on the environment."""
    import aiokafka  # noqa: PLC0415
    import asyncpg  # noqa: PLC0415
    import sqlalchemy.dialects.postgresql.asyncpg  # noqa: PLC0415
    import uvicorn  # noqa: PLC0415

    import cqrs_fastapi.brokers.kafka.broker  # noqa: PLC0415
    import cqrs_fastapi.cli.main  # noqa: PLC0415

    assert all((aiokafka, asyncpg, sqlalchemy, uvicorn, cqrs_fastapi))


def _become(command: Sequence[str], environment: Mapping[str, str], log: str, mutation: str) -> None:
    """The rest of this process's life."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ.update(environment)
        with contextlib.suppress(SystemExit):
            _run(command, mutation)
        status = 0
    except BaseException:  # noqa: BLE001  # a child must never go on as its parent
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _run(command: Sequence[str], mutation: str) -> None:
    if mutation:
        from tools.messaging_torture.mutations import MUTATIONS  # noqa: PLC0415

        MUTATIONS[mutation].apply()
    program, *arguments = command
    if program == "cqrs":
        from cqrs_fastapi.cli.main import app  # noqa: PLC0415

        app(arguments)
    else:
        import uvicorn  # noqa: PLC0415

        uvicorn.run(arguments[0], host="127.0.0.1", port=int(arguments[1]), log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
