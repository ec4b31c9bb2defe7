"""The reference names what the code has, all of it and nothing else."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator

import pytest
from docs_pages import ROOT, headings, prose, table_rows
from sqlalchemy import MetaData

import cqrs_fastapi
from cqrs_fastapi import CqrsError, Settings, migrations
from cqrs_fastapi.storage.tables import build_tables

DOCS = ROOT / "docs"
NOTHING = "none"


def settings_rows() -> dict[str, str]:
    """Default by variable, as the page writes it."""
    rows = table_rows(DOCS / "reference" / "settings.md")
    return {row[0].strip("`"): row[1].strip("`") for row in rows}


def variable(field: str) -> str:
    return f"CQRS_{field.upper()}"


def test_the_page_of_settings_has_a_row_for_each_setting() -> None:
    assert sorted(settings_rows()) == sorted(map(variable, Settings.model_fields))


@pytest.mark.parametrize("field", Settings.model_fields)
def test_a_default_can_be_written_into_the_environment_as_the_page_writes_it(
    field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = settings_rows()[variable(field)]
    expected = getattr(Settings(), field)
    if written == NOTHING:
        assert expected is None
        return
    monkeypatch.setenv(variable(field), written)
    assert getattr(Settings(), field) == expected


def test_the_page_of_the_public_api_lists_exactly_what_the_package_exports() -> None:
    rows = table_rows(DOCS / "reference" / "public-api.md")
    assert sorted(row[0].strip("`") for row in rows) == sorted(cqrs_fastapi.__all__)


def test_the_page_of_tables_has_a_heading_for_each_table() -> None:
    tables = {table.name for table in build_tables(MetaData()).all()} | {"cqrs_alembic_version"}
    named = [heading for heading in headings(DOCS / "reference" / "tables.md") if heading.startswith("cqrs_")]
    assert sorted(named) == sorted(tables)


@pytest.mark.parametrize("table", build_tables(MetaData()).all(), ids=lambda table: str(table.name))
def test_the_page_of_tables_has_each_column(table: object) -> None:
    assert isinstance(table, type(build_tables(MetaData()).events))
    text = prose(DOCS / "reference" / "tables.md")
    section = text.partition(f"## {table.name}\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named == {column.name for column in table.columns}


def test_the_page_of_tables_names_the_head_of_the_migrations() -> None:
    assert f"revision `{migrations.head()}`" in prose(DOCS / "reference" / "tables.md")


def error_classes() -> Iterator[type[CqrsError]]:
    """All of the package, wherever they are defined."""
    for module in pkgutil.walk_packages(cqrs_fastapi.__path__, "cqrs_fastapi."):
        if ".migrations.versions" not in module.name and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    todo: list[type[CqrsError]] = [CqrsError]
    while todo:
        cls = todo.pop()
        todo.extend(cls.__subclasses__())
        if cls.__module__.startswith("cqrs_fastapi."):
            yield cls


def test_every_error_has_a_code_of_its_own_and_a_heading_and_there_is_no_other() -> None:
    codes = sorted(cls.code for cls in error_classes())
    described = [heading for heading in headings(DOCS / "errors.md") if heading != "Errors"]
    assert codes == sorted(set(codes))
    assert sorted(described) == codes


def test_the_section_of_an_error_names_its_class() -> None:
    text = prose(DOCS / "errors.md")
    for cls in error_classes():
        section = text.partition(f"### {cls.code}\n")[2].partition("\n### ")[0]
        assert section.strip().startswith(f"`{cls.__name__}`"), cls.code


def test_the_changelog_has_one_section_that_is_not_released() -> None:
    sections = [heading for heading in headings(ROOT / "CHANGELOG.md") if heading.startswith("[")]
    assert sections[0] == "[Unreleased]"
    assert len(sections) == len(set(sections))
