"""What was acknowledged, in memory and, if wanted, in a file that survives this process."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO


@dataclass(slots=True)
class Journal:
    """By order, the events that the shop has acknowledged: `order.placed`, `order.paid`, `order.cancelled`."""

    acknowledged: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    file: IO[str] | None = None

    def note(self, order_id: str, event: str) -> None:
        """Written out before the next request is sent."""
        self.acknowledged[order_id].append(event)
        if self.file is not None:
            self.file.write(json.dumps({"order_id": order_id, "event": event}) + "\n")
            self.file.flush()

    def count(self, event: str) -> int:
        return sum(event in events for events in self.acknowledged.values())

    def read(self, path: Path) -> None:
        """Take over what an earlier run wrote. A last line that was cut short by a kill was never acted upon."""
        text = path.read_text()
        complete = text[: text.rfind("\n") + 1]
        for line in complete.splitlines():
            entry = json.loads(line)
            self.acknowledged[entry["order_id"]].append(entry["event"])
