"""What the container files say, read as an engine would read it."""

from __future__ import annotations

import fnmatch
import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
PORT = 8000
"""The port of every container of ours."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One line of a Dockerfile, continuation lines joined. `stage` counts the FROMs before it, from 0."""

    stage: int
    name: str
    text: str

    @property
    def words(self) -> list[str]:
        """The arguments: of the exec form (a JSON list) or by blanks."""
        text = self.text.removeprefix("CMD ").strip() if self.name == "CMD" else self.text
        return list(json.loads(text)) if text.startswith("[") else shlex.split(text)

    @property
    def sources(self) -> list[str]:
        """What a COPY takes from the context; nothing if it takes from another stage."""
        words = self.words
        return [] if words[0].startswith("--from=") else words[:-1]


def dockerfile() -> list[Instruction]:
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    found: list[Instruction] = []
    stage = -1
    for line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, _, text = line.strip().partition(" ")
        stage += name == "FROM"
        found.append(Instruction(stage, name, " ".join(text.split())))
    return found


def of(name: str, *, stage: int | None = None) -> list[Instruction]:
    """All instructions of this name, of one stage if it is given."""
    return [one for one in dockerfile() if one.name == name and stage in (None, one.stage)]


def last_stage() -> int:
    return dockerfile()[-1].stage


def health_check() -> list[str]:
    """The command of the image's HEALTHCHECK."""
    (instruction,) = of("HEALTHCHECK")
    return list(json.loads(instruction.text.partition("CMD ")[2]))


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return found


def of_ours(service: Mapping[str, Any]) -> bool:
    return "build" in service


def environment(service: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in service.get("environment", {}).items()}


def in_order_of_start() -> Iterator[str]:
    """Each service after all that it depends on."""
    todo = {name: set(service.get("depends_on", ())) for name, service in services().items()}
    while todo:
        ready = [name for name, needs in todo.items() if not needs & todo.keys()]
        if not ready:
            raise ValueError(f"these depend on one another: {', '.join(todo)}")
        for name in ready:
            del todo[name]
        yield from ready


def is_in_context(path: str) -> bool:
    """Whether .dockerignore lets this file or folder through; the last pattern that matches decides."""
    let_through = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip()
        if pattern and not pattern.startswith("#"):
            wanted = pattern.removeprefix("!").removeprefix("**/")
            name = Path(path).name if "**/" in pattern else path
            if fnmatch.fnmatch(name, wanted) or path.startswith(f"{wanted}/"):
                let_through = pattern.startswith("!")
    return let_through
