"""Trials of a campaign, counted."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any


class Tally:
    """Trials of one campaign."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.good, self.wrong = folder, 0, list[str]()
        self.notes: dict[str, Any] = {}
        self._started = time.monotonic()

    def count(self, good: bool, what: str) -> None:
        self.good += good
        if not good:
            self.wrong.append(what)

    def result(self) -> dict[str, Any]:
        return {
            "trials": self.good + len(self.wrong), "good": self.good, "wrong": self.wrong[:20], **self.notes,
            "seconds": round(time.monotonic() - self._started, 1),
        }  # fmt: skip
