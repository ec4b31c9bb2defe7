"""The pages of the documentation, and the blocks and headings in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

_COMMENT = re.compile(r"<!-- *(?P<word>not run|file): *(?P<value>.*?) *-->")
_FENCE = re.compile(r"```(?P<language>\w*) *")
_HEADING = re.compile(r"#{1,6} +(?P<text>.+)")
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block. `line` is that of its first line of text, from 1; `marks` are those of the comment before it."""

    page: Path
    line: int
    language: str
    text: str
    marks: dict[str, str]

    @property
    def place(self) -> str:
        return f"{name_of(self.page)}:{self.line}"


def pages() -> list[Path]:
    """All of `docs/`, and what the root has for people."""
    at_root = [ROOT / name for name in ("README.md", "CHANGELOG.md")]
    return [page for page in (*at_root, *sorted((ROOT / "docs").rglob("*.md"))) if page.exists()]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[Block]:
    return [block for block in _blocks(page) if block.language == language]


def prose(page: Path) -> str:
    """The page without its blocks."""
    kept: list[str] = []
    inside = False
    for line in page.read_text().splitlines():
        if line.startswith("```"):
            inside = not inside
        elif not inside:
            kept.append(line)
    return "\n".join(kept)


def headings(page: Path) -> list[str]:
    return [match["text"] for line in prose(page).splitlines() if (match := _HEADING.fullmatch(line))]


def anchors(page: Path) -> set[str]:
    """What `#...` may name, made of the headings as GitHub makes it."""
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings(page)}


def links(page: Path) -> list[str]:
    return [match["target"] for match in _LINK.finditer(prose(page))]


def table_rows(page: Path) -> list[list[str]]:
    """The cells of all tables, without their heads."""
    rows = [line for line in prose(page).splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def _blocks(page: Path) -> Iterator[Block]:
    lines = page.read_text().splitlines()
    start: int | None = None
    language = ""
    for index, line in enumerate(lines):
        if start is not None and line == "```":
            yield Block(page, start + 1, language, "\n".join(lines[start:index]) + "\n", _marks(lines, start - 2))
            start = None
        elif start is None and (fence := _FENCE.fullmatch(line)):
            start, language = index + 1, fence["language"]
    if start is not None:
        raise ValueError(f"{name_of(page)}: the block of line {start} has no end")


def _marks(lines: list[str], before: int) -> dict[str, str]:
    """Of the comment on the line before the block."""
    match = _COMMENT.fullmatch(lines[before]) if before >= 0 else None
    return {} if match is None else {match["word"]: match["value"]}
