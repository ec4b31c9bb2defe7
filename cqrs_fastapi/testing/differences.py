"""How a failed expectation is told."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import ndiff

from cqrs_fastapi.messages.events import AnyEvent


def told(events: Sequence[AnyEvent]) -> str:
    return ", ".join(map(repr, events)) or "no event"


def require_same(expected: Sequence[AnyEvent], actual: Sequence[AnyEvent], *, where: str = "") -> None:
    """AssertionError that shows both, line by line: `-` was expected and did not happen, `+` happened and was not
    expected.
    """
    if tuple(expected) == tuple(actual):
        return
    lines = ndiff([repr(event) for event in expected], [repr(event) for event in actual])
    head = f"other events were recorded{where} than expected (- expected, + recorded):"
    raise AssertionError("\n".join([head, *map(str.rstrip, lines)]))


def require_raised(error: Exception | None, expected: type[Exception], recorded: Sequence[AnyEvent]) -> None:
    """AssertionError unless this was raised, and nothing recorded."""
    if error is None:
        raise AssertionError(f"{expected.__name__} was expected, and it recorded {told(recorded)}")
    if not isinstance(error, expected):
        raise AssertionError(  # noqa: TRY004  # it is what a test fails with
            f"{expected.__name__} was expected, and it raised {error!r}"
        ) from error
    if recorded:
        raise AssertionError(f"it raised {expected.__name__} after it had recorded {told(recorded)}")
