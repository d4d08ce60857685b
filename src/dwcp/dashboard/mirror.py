"""The other end of the feed: what a reader of /events knows of the node."""

from __future__ import annotations

from collections import deque
from typing import Any

from dwcp.dashboard.patch import Document, apply
from dwcp.dashboard.rates import SAMPLES

KEPT_RECORDS = 400


class Mirror:
    """`take` every event; the rest may be read at any time."""

    def __init__(self) -> None:
        self.document: Document = {}
        self.samples: deque[dict[str, Any]] = deque(maxlen=SAMPLES)
        self.log: deque[dict[str, Any]] = deque(maxlen=KEPT_RECORDS)

    def take(self, event: str, data: Any) -> None:
        """An event of another name is of a newer node, and is passed over."""
        match event:
            case "snapshot":
                self.document = data["document"]
                self.samples = deque(data["samples"], maxlen=SAMPLES)
                self.log = deque(data["log"], maxlen=KEPT_RECORDS)
            case "patch":
                self.document = apply(self.document, data)
            case "sample":
                self.samples.append(data)
            case "log":
                known = self.log[-1]["seq"] if self.log else 0
                self.log.extend(record for record in data if record["seq"] > known)
