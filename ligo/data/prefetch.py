"""The next batch, made while the step before it is taken."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol

import numpy as np


class Windows(Protocol):
    def __getitem__(self, step: int) -> np.ndarray: ...


@contextmanager
def prefetched(batches: Windows) -> Iterator[Windows]:
    """The same batches by step; asking for one begins with that of the next step at once.

    What goes wrong while a batch is made is raised when that batch is asked for.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as thread:
        yield _Ahead(batches, thread)


class _Ahead:
    def __init__(self, batches: Windows, thread: ThreadPoolExecutor) -> None:
        self._batches, self._thread = batches, thread
        self._next: tuple[int, Future[np.ndarray]] | None = None

    def __getitem__(self, step: int) -> np.ndarray:
        if self._next is not None and self._next[0] == step:
            batch = self._next[1].result()
        else:
            batch = self._batches[step]
        self._next = step + 1, self._thread.submit(self._batches.__getitem__, step + 1)
        return batch
