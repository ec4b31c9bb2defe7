"""The public suites for outbox and inbox, on both databases."""

import pytest

from cqrs_fastapi.testing.contracts.inbox import InboxContract
from cqrs_fastapi.testing.contracts.outbox import OutboxContract


class TestOutboxContract(OutboxContract):
    @pytest.fixture
    def database_url(self, database_url: str) -> str:
        return database_url


class TestInboxContract(InboxContract):
    @pytest.fixture
    def database_url(self, database_url: str) -> str:
        return database_url
