from __future__ import annotations

import pytest
from parcels import Script


@pytest.fixture
def script() -> Script:
    return Script()
