"""Suites that an adapter of anybody's passes to be trusted. They need pytest and anyio, which the library does not."""

import pytest

# Without it a failed assertion in a suite that is imported, not collected, would say nothing but AssertionError.
pytest.register_assert_rewrite("cqrs_fastapi.testing.contracts.broker")
