"""Links inside of the documentation lead somewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from docs_pages import ROOT, anchors, links, name_of, pages


def broken(page: Path) -> list[str]:
    found: list[str] = []
    for link in links(page):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_every_page_can_be_reached_from_the_index() -> None:
    index = (ROOT / "docs" / "index.md").resolve()
    reached, todo = {index}, [index]
    while todo:
        page = todo.pop()
        for link in links(page):
            target = (page.parent / link.partition("#")[0]).resolve()
            if target.suffix == ".md" and target.exists() and target not in reached:
                reached.add(target)
                todo.append(target)
    missing = {name_of(page) for page in (ROOT / "docs").rglob("*.md") if page.resolve() not in reached}
    assert missing == set()


@pytest.mark.parametrize(
    ("link", "is_broken"),
    [("there.md", False), ("there.md#a-heading", False), ("gone.md", True), ("there.md#gone", True), ("#own", False)],
)
def test_a_link_to_nothing_is_found(tmp_path: Path, link: str, *, is_broken: bool) -> None:
    (tmp_path / "there.md").write_text("# A heading\n")
    page = tmp_path / "page.md"
    page.write_text(f"# Own\n\nsee [this]({link})\n")
    assert bool(broken(page)) is is_broken
