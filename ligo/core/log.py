"""What a person sees while work goes on: messages and progress, from rank 0 only.

On a terminal progress is a live bar (rich); elsewhere it is a plain line every few seconds, so that
log files stay readable. `NO_COLOR` is honoured by rich itself.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ligo.core.distributed import is_main
from ligo.core.redact import redact

_PLAIN_INTERVAL_S = 5.0


def say(*parts: object) -> None:
    """Print a line from rank 0, at once."""
    if is_main():
        print(redact(" ".join(map(str, parts))), flush=True)


def warn(message: str) -> None:
    """Print a warning to standard error from rank 0."""
    if is_main():
        print(f"warning: {redact(message)}", file=sys.stderr, flush=True)


class Progress:
    """One piece of long work: `advance()` it, and show the latest numbers beside it."""

    def __init__(self, description: str, total: int) -> None:
        self._description, self._total, self._done = description, total, 0
        self._started = self._last_line = time.monotonic()
        self._bar: Any = None
        if not is_main():
            return
        if sys.stdout.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                TextColumn("{task.description:<24}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self._task = self._bar.add_task(description, total=total, note="")
            self._bar.start()

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Move on by `steps`; `note` is a few words such as 'loss 3.21'."""
        self._done += steps
        if not is_main():
            return
        if self._bar is not None:
            self._bar.update(self._task, advance=steps, **({"note": note} if note else {}))
            return
        now = time.monotonic()
        if now - self._last_line >= _PLAIN_INTERVAL_S:
            self._last_line = now
            rate = self._done / max(now - self._started, 1e-9)
            left = (self._total - self._done) / max(rate, 1e-9)
            say(f"{self._description}: {self._done}/{self._total}  {note}  {left:.0f} s left")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


@contextmanager
def progress(description: str, total: int) -> Iterator[Progress]:
    """Show progress of `total` steps of work under `description`."""
    bar = Progress(description, total)
    try:
        yield bar
    finally:
        bar.close()
