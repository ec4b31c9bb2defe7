"""Texts that both databases can hold and compare, and the patterns of LIKE."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NewType

from cqrs_fastapi.errors import CqrsError

LONGEST_PATTERN = 1_000
_ESCAPE = "\\"
_SPECIAL_IN_GLOB = "*?["

Wildcard = NewType("Wildcard", str)
ANY_TEXT, ONE_CHARACTER = Wildcard("%"), Wildcard("_")


class SearchError(CqrsError):
    """A value that cannot be searched for, or a search that is too large; mostly because of what a client has sent."""

    code = "search"


def checked_text(text: str) -> str:
    """SearchError for a text that no database can hold: with a NUL character or half a surrogate pair."""
    if "\0" in text:
        raise SearchError("a text holds the character NUL, which PostgreSQL cannot store; leave it out")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SearchError("a text holds half of a surrogate pair, which is no character; leave it out") from None
    return text


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern of LIKE: `%` is any text, `_` is one character, a backslash makes the next character an ordinary one.

    It matches a whole text, with case, code point by code point.
    """

    parts: tuple[tuple[str, bool], ...]
    """Each character, and whether it is a wildcard."""

    def as_like(self) -> str:
        """For PostgreSQL's LIKE, with a backslash before each ordinary character that means something there."""
        return "".join(
            char if wild or char not in (ANY_TEXT, ONE_CHARACTER, _ESCAPE) else _ESCAPE + char
            for char, wild in self.parts
        )

    def as_glob(self) -> str:
        """For SQLite's GLOB: its LIKE ignores the case of ASCII letters."""
        wildcards = {ANY_TEXT: "*", ONE_CHARACTER: "?"}
        return "".join(
            wildcards[Wildcard(char)] if wild else f"[{char}]" if char in _SPECIAL_IN_GLOB else char
            for char, wild in self.parts
        )

    def matches(self, text: str) -> bool:
        """In time proportional to both lengths: only the last `%` is ever tried again, one character further."""
        parts, at, part = self.parts, 0, 0
        retry_part, retry_at = -1, 0
        while at < len(text):
            if part < len(parts) and parts[part] == (ANY_TEXT, True):
                retry_part, retry_at = part, at
                part += 1
            elif part < len(parts) and parts[part] in ((ONE_CHARACTER, True), (text[at], False)):
                at, part = at + 1, part + 1
            elif retry_part >= 0:
                retry_at += 1
                at, part = retry_at, retry_part + 1
            else:
                return False
        return all(rest == (ANY_TEXT, True) for rest in parts[part:])


def parsed(pattern: str) -> Pattern:
    """SearchError for a pattern that is too long or ends with the backslash that escapes nothing."""
    if len(pattern) > LONGEST_PATTERN:
        raise SearchError(f"a pattern has {len(pattern)} characters, the limit is {LONGEST_PATTERN}")
    return Pattern(tuple(_parts(checked_text(pattern))))


def _parts(pattern: str) -> Iterator[tuple[str, bool]]:
    chars = iter(pattern)
    for char in chars:
        if char != _ESCAPE:
            yield char, char in (ANY_TEXT, ONE_CHARACTER)
            continue
        escaped = next(chars, None)
        if escaped is None:
            raise SearchError("a pattern ends with a single backslash; write two for the character itself")
        yield escaped, False
