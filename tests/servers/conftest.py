from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tools.servers import NAMES, Servers


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Callable[..., Servers]]:
    """Servers of the test's own: `fleet(POSTGRES_URL="…")` sees that environment and no other."""

    def made(**environment: str) -> Servers:
        return Servers(tmp_path / "servers", environment)

    yield made
    for name in NAMES:
        made().stop(name)
