"""Java and the jars of Apache Kafka, fetched once by Maven and kept in the user's cache."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tools.servers.errors import ServerError, ServerUnavailableError
from tools.servers.processes import run

_OLDEST_JAVA = 17
_DOWNLOAD_SECONDS = 300.0
_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.7.1:copy-dependencies"
_POM = """\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>local</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{version}</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
"""


def find_java() -> Path:
    """The first Java new enough for the broker: of JAVA_HOME, of the PATH, of the system's folder."""
    for program in _javas():
        if program.exists() and _major_version(program) >= _OLDEST_JAVA:
            return program
    raise ServerUnavailableError(f"Java {_OLDEST_JAVA} or later was not found: apt-get install default-jre-headless")


def jars(version: str) -> Path:
    """The folder of the broker's jars. A half-done download is never taken for a whole one: the folder is moved in."""
    folder = _cache() / f"kafka-{version}"
    if not folder.exists():
        _download(version, folder)
    return folder / "lib"


def _download(version: str, folder: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise ServerUnavailableError("Maven, which fetches Apache Kafka, was not found: apt-get install maven")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        new = Path(place) / "new"
        new.mkdir()
        (new / "pom.xml").write_text(_POM.format(version=version))
        options = ("-DincludeScope=runtime", f"-DoutputDirectory={new / 'lib'}")
        try:
            run(
                (maven, "-q", "-B", "-Dstyle.color=never", "-f", str(new / "pom.xml"), *options, _COPY),
                seconds=_DOWNLOAD_SECONDS,
            )
        except ServerError as error:
            raise ServerUnavailableError(f"Apache Kafka {version} could not be fetched: {error}") from error
        _move_in(new, folder)


def _move_in(new: Path, folder: Path) -> None:
    try:
        new.rename(folder)
    except OSError:
        if not folder.exists():  # otherwise another process was faster, and its jars are the same
            raise


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cqrs-fastapi"


def _javas() -> Iterator[Path]:
    if home := os.environ.get("JAVA_HOME"):
        yield Path(home) / "bin" / "java"
    if found := shutil.which("java"):
        yield Path(found)
    yield from sorted(Path("/usr/lib/jvm").glob("*/bin/java"))


def _major_version(program: Path) -> int:
    said = subprocess.run((str(program), "-version"), capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(\d+)', said)
    return int(version.group(1)) if version else 0
