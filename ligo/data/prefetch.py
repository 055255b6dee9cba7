"""The next batch, made while the step before it is taken."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np


class _Windows(Protocol):
    def __getitem__(self, step: int) -> np.ndarray: ...


class Prefetched:
    """Batches by step, as those that it is made from; `Prefetched(batches)[step]` begins with step + 1 at once.

    What goes wrong while a batch is made is raised when that batch is asked for.
    """

    def __init__(self, batches: _Windows) -> None:
        self._batches = batches
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._ahead: tuple[int, Future[np.ndarray]] | None = None

    def __getitem__(self, step: int) -> np.ndarray:
        if self._ahead is not None and self._ahead[0] == step:
            batch = self._ahead[1].result()
        else:
            batch = self._batches[step]
        self._ahead = step + 1, self._thread.submit(self._batches.__getitem__, step + 1)
        return batch
