"""Takes the snapshots that are due, right after the commit and before anybody can change the aggregates further."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

import structlog

from cqrs_fastapi.domain.aggregate import Aggregate
from cqrs_fastapi.domain.snapshot_form import SnapshotForm
from cqrs_fastapi.eventstore.snapshots import Snapshot
from cqrs_fastapi.unit_of_work.drafts import Draft

log = structlog.get_logger("cqrs_fastapi")


def snapshots_due(
    aggregates: Iterable[Aggregate], drafts: Sequence[Draft], tenant: str, now: datetime
) -> list[Snapshot]:
    """Of the aggregates whose events are among the drafts that were committed. It never raises, since the commit has
    happened: an aggregate whose state would not come back as it is stays without, which is logged.
    """
    found: list[Snapshot] = []
    for aggregate in aggregates:
        if aggregate.__snapshots__ is None or not aggregate.recorded:
            continue
        try:
            found += _due(aggregate, aggregate.__snapshots__, drafts, tenant, now)
        except Exception as error:  # noqa: BLE001  # whatever a policy or a serializer of the user's raises
            log.error("snapshot_not_taken", stream=aggregate.stream, error=str(error))
    return found


def _due(
    aggregate: Aggregate, form: SnapshotForm, drafts: Sequence[Draft], tenant: str, now: datetime
) -> Iterator[Snapshot]:
    own = [draft for draft in drafts if draft.stream == aggregate.stream]
    version = aggregate.version + len(own)
    # Its state is that of this version only if it has folded all that was committed, and nothing since.
    if [draft.event for draft in own] == list(aggregate.recorded) and form.is_due(aggregate, version):
        message_id, state = own[-1].metadata.message_id, form.dump(aggregate)
        yield Snapshot(tenant, aggregate.stream, version, message_id, form.fingerprint, state, now)
