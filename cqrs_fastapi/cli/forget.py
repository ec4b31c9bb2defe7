"""Forgetting a person from the shell."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated

import typer
from pydantic_core import to_json

from cqrs_fastapi.cli.target import Target, load
from cqrs_fastapi.personal_data.forgetting import Forgotten
from cqrs_fastapi.runtime.application import Application

Subject = Annotated[str, typer.Argument(help="Who is forgotten, as events name it: the value of the subject's field.")]
Tenant = Annotated[str, typer.Option(help="Whose data subject it is.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON value, for programs.")]


def forget(target: Target, subject: Subject, tenant: Tenant = "", as_json: AsJson = False) -> None:
    """Destroy the key of a data subject and delete its snapshots and its rows of read models, for good.

    It is harmless to repeat. What is in backups, logs and other systems is not touched.
    """
    report = asyncio.run(_forget(load(target), subject, tenant))
    typer.echo(to_json(asdict(report), indent=2).decode() if as_json else _told(report))


async def _forget(application: Application, subject: str, tenant: str) -> Forgotten:
    async with application.running(workers=()):
        return await application.personal_data.forget(subject, tenant=tenant)


def _told(report: Forgotten) -> str:
    rows = ", ".join(f"{count} of {table}" for table, count in report.rows.items()) or "none, no table is purged"
    return "\n".join(
        (
            f"forgotten: {report.subject}",
            f"key destroyed: {report.forgotten_at.isoformat(timespec='seconds')}",
            f"other processes may read until: {report.elsewhere_until.isoformat(timespec='seconds')}",
            f"snapshots deleted: {report.snapshots}",
            f"rows deleted: {rows}",
        )
    )
