from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from container_files import ROOT, last_stage, of


def _copy(stage: int, folder: Path) -> Path:
    """What the COPY instructions of one stage take from the context, where they put it."""
    folder.mkdir()
    for instruction in of("COPY", stage=stage):
        for source in instruction.sources:
            path = ROOT / source
            if path.is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "*.pyc", "*.db*")
                shutil.copytree(path, folder / path.name, ignore=ignored)
            else:
                shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built of what the first stage has and nothing else, and unpacked."""
    folder = tmp_path_factory.mktemp("build")
    build = _copy(0, folder / "context")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)],
        cwd=build,
        check=True,
        capture_output=True,
        text=True,
    )
    (wheel,) = folder.glob("*.whl")
    site = folder / "site"
    zipfile.ZipFile(wheel).extractall(site)  # our own
    return site


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """The working directory of the image, with what the last stage copies into it."""
    return _copy(last_stage(), tmp_path / "srv")
