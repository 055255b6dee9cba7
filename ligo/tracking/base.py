"""A tracker is four verbs; several together are one tracker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Tracker(Protocol):
    """Where numbers go. A record names its arm ("grown", "scratch", "learn", "small") and its step."""

    def log(self, record: dict[str, Any]) -> None: ...

    def rewind(self, arm: str, step: int) -> None:
        """Forget what an arm logged after `step`: it is trained again from there."""
        ...

    def summary(self, values: dict[str, Any]) -> None: ...

    def finish(self) -> None: ...


class Trackers:
    """All trackers of a run as one."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = list(trackers)

    def log(self, record: dict[str, Any]) -> None:
        for tracker in self._trackers:
            tracker.log(record)

    def rewind(self, arm: str, step: int) -> None:
        for tracker in self._trackers:
            tracker.rewind(arm, step)

    def summary(self, values: dict[str, Any]) -> None:
        for tracker in self._trackers:
            tracker.summary(values)

    def finish(self) -> None:
        for tracker in self._trackers:
            tracker.finish()
