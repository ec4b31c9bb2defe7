"""Every Python block of the documentation runs. Blocks of one page are one module; `await` is allowed outside."""

from __future__ import annotations

import ast
import asyncio
import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
from docs_pages import Block, blocks, name_of, pages

WITH_PROGRAMS = [page for page in pages() if blocks(page, "python")]


@contextmanager
def a_module(name: str) -> Iterator[ModuleType]:
    """A real one, since annotations of classes are looked up in `sys.modules`."""
    module = ModuleType(name)
    sys.modules[name] = module
    try:
        yield module
    finally:
        del sys.modules[name]


def run(program: Sequence[Block], module: ModuleType) -> None:
    """All blocks on one event loop. A traceback shows the lines of the page."""
    with asyncio.Runner() as runner:
        for block in program:
            source = "\n" * (block.line - 1) + block.text
            code = compile(source, block.page, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
            result = eval(code, vars(module))  # noqa: S307  # the project's own pages
            if inspect.iscoroutine(result):
                runner.run(result)


@pytest.mark.parametrize("page", WITH_PROGRAMS, ids=name_of)
def test_the_programs_of_a_page_run_in_their_order(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    program = [block for block in blocks(page, "python") if "not run" not in block.marks]
    with a_module(f"page_{page.stem.replace('-', '_')}") as module:
        run(program, module)


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_a_block_that_is_not_run_says_why(page: Path) -> None:
    silent = [block.place for block in blocks(page, "python") if block.marks.get("not run") == ""]
    assert not silent


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_every_block_says_what_language_it_is_in(page: Path) -> None:
    assert not [block.place for block in blocks(page, "")]


def test_a_block_that_fails_names_its_page_and_line(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("text\n\n```python\nfirst = 1\nraise LookupError(first)\n```\n")
    with a_module("page_that_fails") as module, pytest.raises(LookupError) as caught:
        run(blocks(page, "python"), module)
    assert caught.traceback[-1].path == page
    assert caught.traceback[-1].lineno + 1 == 5
