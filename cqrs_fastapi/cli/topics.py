"""The topics of an application at its broker, for deployments and for whoever looks after the cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

import typer

from cqrs_fastapi.cli.target import Target, load

More = Annotated[
    list[str] | None,
    typer.Option("--topic", help="One more, that no class of events names; without the prefix.", show_default=False),
]

app = typer.Typer(no_args_is_help=True, help="The topics that events are sent to and come from.")


@app.command()
def check(target: Target, topic: More = None) -> None:
    """Compare them with the settings: missing ones, other partitions, messages that outlive the inbox, a limit that is
    too low. The broker is asked and not changed. Status 1, with a sentence for each, if something is wrong.
    """
    application = load(target)
    if application.broker.in_process:
        typer.echo(f"{application.broker.name}:// makes topics as they are used; there is nothing to check")
        return
    topics, more = application.topics, _more(topic)
    problems = asyncio.run(topics.check(more))
    for problem in problems:
        typer.echo(problem.sentence)
    if problems:
        raise typer.Exit(1)
    typer.echo(f"{len(topics.names(more))} topics are as they should be")


@app.command()
def create(target: Target, topic: More = None) -> None:
    """Make those that are missing, with the partitions and the replication of the settings."""
    application = load(target)
    if application.broker.in_process:
        typer.echo(f"{application.broker.name}:// makes topics as they are used; there is nothing to create")
        return
    made = asyncio.run(application.topics.create(_more(topic)))
    prefix = application.settings.topic_prefix
    typer.echo("\n".join([*(f"created {prefix}{name}" for name in made), f"{len(made)} topics created"]))


def _more(topic: Sequence[str] | None) -> Sequence[str]:
    return topic or ()
