"""The grown checkpoint as files: every target tensor is one job, and its bytes go out as they are made.

Worker threads make tensors, or rows of them where these are copies, while those before are written. What is made and
not yet written never takes more than the largest tensor does, so memory knows no size of the model.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ligo import __version__
from ligo.accounting.memory import write_peak
from ligo.checkpoint.reader import Checkpoint
from ligo.checkpoint.shards import Shard, lay_out, write_shards
from ligo.core.log import progress
from ligo.growth.copies import copies_of
from ligo.growth.execute import ReadTensor, TensorMaker
from ligo.growth.noise import rows_per_draw
from ligo.growth.plan import GrowthPlan, TensorJob
from ligo.operators.maps import GrowthMaps
from ligo.operators.noise_level import NoiseLevel

_DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_PIECE_BYTES = 2**22
"""Small enough to be still in the cache when it is hashed and written."""
_QUEUE_BYTES = 2**25
"""What may wait to be written, where no tensor that is made as a whole is larger."""


@dataclass(frozen=True)
class GrowthWriter:
    """Writes what a plan makes. The bytes depend on neither the number of threads nor how files are cut."""

    plan: GrowthPlan
    maps: GrowthMaps
    read: ReadTensor
    dtype: str
    """To store in; the arithmetic is float32, or float64 for float64."""
    noise: NoiseLevel
    seed: int
    num_workers: int = 0
    """Threads that make tensors; 0: as many as there are cores, eight at most."""

    def write(self, folder: Path, record: Path, *, shard_bytes: int) -> dict[str, Any]:
        """Write the weights, those files left out that an earlier start has finished.

        Args:
            folder, record: from `folder_resumed`, under this growth's key.
            shard_bytes: largest file; a tensor that is larger still gets a file of its own.

        Returns:
            As `write_shards`.

        Raises:
            NumericsError: a grown tensor is not finite; it is named.
            OSError: the disk is full or cannot be written; finished files stay.
        """
        return write_shards(folder, self.shards(shard_bytes), self._pieces, record)

    def shards(self, shard_bytes: int) -> list[Shard]:
        """The files that it will be."""
        shapes = {job.spec.name: job.shape for job in self.plan.jobs}
        return lay_out(shapes, _DTYPES[self.dtype], shard_bytes)

    @property
    def peak_bytes(self) -> int:
        """The most memory that the process takes while it writes, libraries and buffers included."""
        return write_peak(self.largest_job)

    @property
    def largest_job(self) -> int:
        """Bytes of the largest tensor while it is made, in the dtype of the arithmetic."""
        return max(math.prod(job.shape) for job in self.plan.jobs) * self._compute.itemsize

    @property
    def _largest_whole(self) -> int:
        """The same of those that are not made by rows."""
        whole = [job for job in self.plan.jobs if copies_of(job, self.plan, self.maps) is None]
        return max((math.prod(job.shape) for job in whole), default=0) * self._compute.itemsize

    @property
    def _compute(self) -> torch.dtype:
        return torch.float64 if self.dtype == "float64" else torch.float32

    def _pieces(self, names: Sequence[str]) -> Iterator[Tensor]:
        """The tensors under these names, in order, whole or some rows at a time."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        maker = TensorMaker(self.plan, self.maps, self.read, self._compute, self.noise, self.seed, device)
        workers = self.num_workers or min(8, len(os.sched_getaffinity(0)))
        buffers = _Buffers()
        with progress("writing tensors", len(names)) as bar:

            def tasks() -> Iterator[tuple[int, Callable[[], Tensor]]]:
                for name in names:
                    yield from self._tasks(maker, self.plan.job_of[name], buffers)
                    bar.advance()

            for piece in _in_order(tasks(), workers, max(self._largest_whole, _QUEUE_BYTES)):
                yield piece
                buffers.take_back(piece)

    def _tasks(
        self, maker: TensorMaker, job: TensorJob, buffers: _Buffers
    ) -> Iterator[tuple[int, Callable[[], Tensor]]]:
        """What makes one tensor: (bytes that it takes, what to call), in the order of the rows."""
        stored, make_rows = getattr(torch, self.dtype), maker.by_rows(job)
        if make_rows is None:
            yield math.prod(job.shape) * self._compute.itemsize, lambda: maker.make(job).to(stored)
            return
        num_rows, row_bytes = job.shape[0], job.shape[1] * stored.itemsize
        step = rows_per_draw(job.shape)
        step *= max(1, _PIECE_BYTES // (row_bytes * step))

        def piece(rows: range) -> Tensor:
            return make_rows(rows, buffers.give((len(rows), *job.shape[1:]), stored))

        for first in range(0, num_rows, step):
            rows = range(first, min(first + step, num_rows))
            yield len(rows) * row_bytes, partial(piece, rows)


class _Buffers:
    """Memory for pieces, used again: the system takes longer to give fresh memory than a piece to be made."""

    def __init__(self) -> None:
        self._free: list[Tensor] = []

    def give(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor of this shape, with anything in it."""
        num_bytes = math.prod(shape) * dtype.itemsize
        try:
            buffer = self._free.pop()
        except IndexError:  # another thread may have been faster
            buffer = None
        if buffer is None or len(buffer) < num_bytes:
            buffer = torch.empty(max(num_bytes, _PIECE_BYTES), dtype=torch.uint8)
        return buffer[:num_bytes].view(dtype).view(shape)

    def take_back(self, piece: Tensor) -> None:
        """Take a tensor that is not needed any more; one that was not given is left alone."""
        buffer = piece._base
        if buffer is not None and buffer.dtype == torch.uint8:
            self._free.append(buffer)


def growth_key(
    plan: GrowthPlan, maps: GrowthMaps, small: Checkpoint, *, dtype: str, noise: NoiseLevel, seed: int, shard_bytes: int
) -> str:  # fmt: skip
    """Sixteen hex digits of everything that decides the bytes of a grown checkpoint."""
    digest = hashlib.sha256()
    versions = (__version__, torch.__version__)  # another torch may draw other numbers
    files = sorted(small.folder.glob("*.safetensors"))
    saved = [(file.name, file.stat().st_mtime_ns) for file in files]  # the fingerprint looks at samples alone
    for part in (plan.as_json(), maps, small.fingerprint(), saved, dtype, noise, seed, shard_bytes, versions):
        _digest(part, digest.update)
    return digest.hexdigest()[:16]


def _digest(value: Any, update: Callable[[bytes], object]) -> None:
    """Feed plain data, arrays, and dataclasses of such to a digest, each with its type."""
    update(f"{type(value).__name__}(".encode())
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        update(f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
    elif is_dataclass(value):
        for field in fields(value):
            _digest((field.name, getattr(value, field.name)), update)
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            _digest((key, value[key]), update)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _digest(item, update)
    elif isinstance(value, (set, frozenset)):
        _digest(sorted(value, key=str), update)
    else:
        update(repr(value).encode())
    update(b")")


def _in_order(
    tasks: Iterable[tuple[int, Callable[[], Tensor]]], num_workers: int, max_bytes: int
) -> Iterator[Tensor]:
    """Call tasks on threads and give what they return, in their order.

    Args:
        tasks: (bytes, what to call).
        max_bytes: what tasks take that have been begun and whose tensor is not done with.
    """
    waiting: deque[tuple[int, Future[Tensor]]] = deque()
    held = 0
    pool = ThreadPoolExecutor(num_workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        for num_bytes, task in tasks:
            while waiting and held + num_bytes > max_bytes:
                yield waiting[0][1].result()
                held -= waiting.popleft()[0]
            waiting.append((num_bytes, pool.submit(task)))
            held += num_bytes
        while waiting:
            yield waiting[0][1].result()
            waiting.popleft()
    finally:
        pool.shutdown(cancel_futures=True)
