"""Notes for the auditors."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from cqrs_fastapi import Metadata
from example_app.application.ports import AuditTrail

log = logging.getLogger("example_app.audit")


class Notes:
    """Sentences in the making; implements AuditTrail."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def note(self, sentence: str) -> None:
        self.sentences.append(sentence)


def audit_trail(metadata: Metadata) -> Iterator[AuditTrail]:
    """One for each message. After the commit this goes on behind the `yield`; a failure is raised there instead, and
    the notes of what never happened are dropped.
    """
    notes = Notes()
    yield notes
    for sentence in notes.sentences:
        log.info("%s [%s]", sentence, metadata.correlation_id)
