"""How letters are shown to people and to programs."""

from __future__ import annotations

import base64
from datetime import datetime

from pydantic_core import to_json

from cqrs_fastapi.dead_letters.parking import Letter


def summary(letter: Letter) -> dict[str, object]:
    return {
        "id": letter.id,
        "parked_at": letter.parked_at,
        "consumer": letter.consumer,
        "message_id": letter.message_id,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "code": letter.code,
        "error": letter.error,
        "attempts": letter.attempts,
        "bytes": len(letter.payload),
        "tenant": letter.tenant,
        "closed_key": letter.sequence,
        "place": letter.ordinal,
        "retry_at": letter.retry_at,
    }


def details(letter: Letter) -> dict[str, object]:
    return {
        **summary(letter),
        "headers": dict(letter.headers),
        "key_base64": None if letter.key is None else base64.b64encode(letter.key).decode(),
        "payload_base64": base64.b64encode(letter.payload).decode(),
        "traceback": letter.traceback,
    }


def listed(letters: list[Letter], total: int) -> str:
    if not letters:
        return "no dead letters"
    blocks = [
        f"{letter.id}  {_moment(letter.parked_at)}  {plain(letter.consumer)}\n"
        f"    {plain(letter.topic)}/{letter.partition}/{letter.offset}, {len(letter.payload)} bytes, "
        f"{letter.attempts} attempts{_place(letter)}\n"
        f"    {plain(letter.code)}: {plain(letter.error)}"
        for letter in letters
    ]
    return "\n".join([*blocks, f"{len(letters)} of {total} dead letters"])


def _place(letter: Letter) -> str:
    """Where it waits, if it does not wait alone."""
    place = "" if letter.sequence is None else f", number {letter.ordinal + 1} of {plain(letter.sequence)}"
    return place if letter.retry_at is None else f"{place}, tried again at {_moment(letter.retry_at)}"


def told(letter: Letter) -> str:
    lines = [f"{name}: {plain(_value(value))}" for name, value in summary(letter).items()]
    lines += ["headers:", *(f"  {plain(name)}: {plain(value)}" for name, value in letter.headers.items())]
    if letter.key is not None:
        lines.append(f"key: {_bytes(letter.key)}")
    lines += ["payload:", _bytes(letter.payload)]
    if letter.traceback:
        lines += ["traceback:", *(plain(line) for line in letter.traceback.splitlines())]
    return "\n".join(lines)


def _value(value: object) -> str:
    return _moment(value) if isinstance(value, datetime) else str(value)


def _moment(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")


def _bytes(data: bytes) -> str:
    """Text as it is, anything else in base64."""
    try:
        return "\n".join(plain(line) for line in data.decode().split("\n"))
    except UnicodeDecodeError:
        return f"base64 {base64.b64encode(data).decode()}"


def plain(text: str) -> str:
    """Strangers wrote it: what a terminal would obey is shown as an escape."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def json_text(value: object) -> str:
    return to_json(value, indent=2).decode()
