"""The ledger outside: `python -m tools.messaging_torture.ledger_server FILE SEED POISON_KEY POISON_EVERY`.

Prints its port. Each call is one line in FILE before it is answered; nothing is ever deduplicated. Of the poison key
every n-th number is refused for ever. A few others are refused after they were written down, as a system does whose
answer gets lost.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys

_FAILS = 0.002


async def serve(file: str, seed: str, poison_key: int, poison_every: int) -> None:
    """Until its input ends, which it does when its parent ends, however that happens."""
    output = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    chance = random.Random(seed)  # noqa: S311  # it is for no secret

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not (text := await reader.readline()).endswith(b"\n"):
                return
            call = json.loads(text)
            poison = call["entry"]["key"] == poison_key and call["entry"]["number"] % poison_every == 0
            call["answered"] = "error" if poison or chance.random() < _FAILS else "ok"
            os.write(output, json.dumps(call).encode() + b"\n")
            writer.write(call["answered"].encode() + b"\n")
            await writer.drain()
        except ConnectionError:
            return  # who called is gone; the line stays
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    os._exit(0)  # who still waits for an answer has been killed, too; every line is written


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
