from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the pages show must not depend on who runs it."""
    for name in os.environ:
        if name.startswith("CQRS_"):
            monkeypatch.delenv(name)
