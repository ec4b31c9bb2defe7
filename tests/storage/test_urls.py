from __future__ import annotations

from pathlib import Path

import pytest

from cqrs_fastapi.errors import ConfigurationError
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.storage.urls import checked_url, file_system, require_usable_file

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("postgresql://u:secret@h/d", r"write postgresql\+asyncpg://"),
        ("postgresql+psycopg://u:secret@h/d", r"write postgresql\+asyncpg://"),
        ("sqlite:///x.db", r"write sqlite\+aiosqlite://"),
        ("mysql+aiomysql://u:secret@h/d", "is not supported; write postgresql"),
        ("not a url", "is no URL; write"),
        ("sqlite+aiosqlite://", "in-memory"),
        ("sqlite+aiosqlite:///:memory:", "in-memory"),
        ("sqlite+aiosqlite:///file:x?mode=memory&uri=true", "write the path alone"),
    ],
)
def test_a_url_that_does_not_serve_is_refused_with_what_to_write_instead(url: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence) as caught:
        Database(Settings(database_url=url))
    assert "secret" not in str(caught.value)


async def test_a_missing_folder_is_named_before_anything_is_made(tmp_path: Path) -> None:
    database = Database(Settings(database_url=f"sqlite+aiosqlite:///{tmp_path}/missing/test.db"))
    with pytest.raises(ConfigurationError, match="mkdir -p"):
        await database.open()
    await database.close()


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "smb3", "fuse.sshfs"])
def test_a_file_on_a_network_is_refused(tmp_path: Path, kind: str) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nserver:/x {tmp_path} {kind} rw 0 0\n")
    with pytest.raises(ConfigurationError, match=f"network file system \\({kind}\\)"):
        require_usable_file(checked_url(f"sqlite+aiosqlite:///{tmp_path}/test.db"), mounts)


def test_a_file_on_a_local_disk_below_a_network_is_accepted(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"server:/x / nfs rw 0 0\n/dev/sda {tmp_path} ext4 rw 0 0\n")
    require_usable_file(checked_url(f"sqlite+aiosqlite:///{tmp_path}/test.db"), mounts)


def test_the_longest_mount_point_decides_and_names_with_spaces_are_read() -> None:
    mounts = "a / ext4 x\nb /data nfs x\nc /data/my\\040disk xfs x\n"
    assert file_system(Path("/data/my disk/f"), mounts) == "xfs"
    assert file_system(Path("/data/other"), mounts) == "nfs"
    assert file_system(Path("/database"), mounts) == "ext4"
