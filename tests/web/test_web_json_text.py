from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cqrs_fastapi.web.json_text import TextCheck

any_character = st.characters(codec=None)
near_surrogates = st.sampled_from(
    [
        "\\",
        "u",
        "d",
        "D8",
        "00",
        "\\ud83d",
        "\\ude00",
        "\\uDBFF",
        "\\udc00",
        "\\\\",
        "\ud7ff",
        "\ud800",
        "\udfff",
        '"',
        "a",
    ]
)


def has_lone_surrogate(value: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in value)


def verdict(body: bytes, cuts: list[int]) -> bool:
    check = TextCheck()
    edges = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts)})
    chunks = [body[start:end] for start, end in pairwise(edges)] or [b""]
    return all(check.is_sound(chunk, more=index < len(chunks) - 1) for index, chunk in enumerate(chunks))


@given(st.lists(near_surrogates, max_size=8).map("".join), st.lists(st.integers(0, 200), max_size=4))
def test_exactly_the_texts_that_decode_to_lone_surrogates_are_refused_however_they_are_cut(
    inner: str, cuts: list[int]
) -> None:
    body = b'"' + inner.encode("utf-8", "surrogatepass") + b'"'
    try:
        decoded = json.loads(body)
    except ValueError:
        return
    assert verdict(body, cuts) is not has_lone_surrogate(decoded)


@given(st.text(st.characters(exclude_categories=["Cs"])), st.booleans(), st.lists(st.integers(0, 200), max_size=4))
def test_every_text_that_utf_8_can_hold_is_sound(text: str, ascii_only: bool, cuts: list[int]) -> None:
    assert verdict(json.dumps(text, ensure_ascii=ascii_only).encode(), cuts)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-16-le", "utf-32", "utf-32-be", "utf-32-le"])
def test_other_encodings_than_utf_8_are_refused(encoding: str) -> None:
    assert not verdict('{"a": 1}'.encode(encoding), [])
