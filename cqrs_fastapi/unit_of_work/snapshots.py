"""Takes the snapshots that are due, right after the commit and before anybody can change the aggregates further."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID

import structlog

from cqrs_fastapi.domain.aggregate import Aggregate
from cqrs_fastapi.domain.snapshot_form import SnapshotForm
from cqrs_fastapi.eventstore.snapshots import Snapshot, to_bytes
from cqrs_fastapi.messages.registry import EventRegistry
from cqrs_fastapi.unit_of_work.disclosures import Disclosures
from cqrs_fastapi.unit_of_work.drafts import Draft

log = structlog.get_logger("cqrs_fastapi")


def snapshots_due(
    aggregates: Iterable[Aggregate],
    drafts: Sequence[Draft],
    registry: EventRegistry,
    disclosed: Disclosures,
    *,
    tenant: str,
    now: datetime,
) -> list[Snapshot]:
    """In clear, with the keys that each is to be sealed with. Of the aggregates whose events are among the drafts that
    were committed. It never raises, since the commit has happened: an aggregate whose state would not come back as it
    is stays without, which is logged.
    """
    found: list[Snapshot] = []
    for aggregate in aggregates:
        form = aggregate.__snapshots__
        if form is None or not aggregate.recorded:
            continue
        try:
            if (due := _due(aggregate, form, drafts)) is not None:
                fingerprint, state = form.fingerprint_in(registry), to_bytes(form.dump(aggregate))
                key_ids = aggregate.__loading__.key_ids | disclosed.key_ids_of(aggregate.recorded)
                found.append(Snapshot(tenant, aggregate.stream, *due, fingerprint, state, now, key_ids))
        except Exception as error:  # noqa: BLE001  # whatever a policy or a serializer of the user's raises
            log.error("snapshot_not_taken", stream=aggregate.stream, error=str(error))
    return found


def _due(aggregate: Aggregate, form: SnapshotForm, drafts: Sequence[Draft]) -> tuple[int, UUID] | None:
    """The version that the aggregate is at, and the message id of its last event, if a snapshot is due of it."""
    own = [draft for draft in drafts if draft.stream == aggregate.stream]
    version = aggregate.version + len(own)
    # Its state is that of this version only if it has folded all that was committed, and nothing since.
    if [draft.event for draft in own] != list(aggregate.recorded) or not form.is_due(aggregate, version):
        return None
    return version, own[-1].metadata.message_id
