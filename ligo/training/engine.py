"""What every engine promises, and what all write and read alike. An engine takes optimiser steps.

Batches are int64 arrays, one window or image per row; a rank hands its own rows to `step`. A step whose loss or
gradient is not finite, on any rank, changes nothing on all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ligo.core import distributed
from ligo.training.config import BatchShape
from ligo.training.objectives import Objective
from ligo.training.state import Held, read_state, write_state

Moments = Mapping[str, tuple[Tensor, Tensor]]
"""Name of a parameter in the running model -> its exp_avg and exp_avg_sq, in its full shape."""


class Engine(Protocol):
    """A model with its objective and its optimiser, ready to step."""

    device: torch.device
    module: nn.Module
    objective: Objective

    def step(self, windows: np.ndarray, lr: float) -> tuple[float, float | None]:
        """One optimiser step on this rank's windows: (mean loss over ranks, gradient norm before clipping).

        Where either is not finite, no step was taken, and weights and optimiser are what they were.
        """
        ...

    def save(self, folder: Path) -> dict[str, str]:
        """Write what this rank holds of model and optimiser below `folder`; every rank calls it.

        Returns:
            The file's name, and its SHA-256 in hex.

        Raises:
            OSError: the disk is full or cannot be written.
        """
        ...

    def load(self, folder: Path) -> None:
        """Take up what any engine saved on any number of ranks; every rank calls it.

        Raises:
            CheckpointError: it is not the state of this model and optimiser.
        """
        ...

    def weights(self) -> dict[str, Tensor]:
        """The model's full weights on the CPU, by their names on disk (rank 0; empty elsewhere); every rank
        calls it."""
        ...

    def trained(self) -> dict[str, Tensor]:
        """What is trained of the model, in full on the CPU, by names in the running model (rank 0; empty elsewhere);
        every rank calls it."""
        ...

    def moments(self) -> tuple[int, Moments]:
        """Steps taken, and Adam's moments in full on the CPU (rank 0; empty elsewhere); every rank calls it."""
        ...

    def load_moments(
        self, step: int, moments: Moments, windows: np.ndarray, new: Mapping[str, Tensor] | None = None
    ) -> None:
        """Begin as if after `step` steps with these moments; `windows`: of this rank's first step; `new`: for
        `RewarmingAdamW`, which coordinates of each parameter are new. Every rank calls it."""
        ...

    def close(self) -> None: ...


def micro_batches(windows: np.ndarray, shape: BatchShape, device: torch.device) -> Iterator[Tensor]:
    for part in np.split(windows, shape.micro_batches):
        yield torch.from_numpy(part).to(device)


def save_state(folder: Path, held: Iterator[Held], extra: dict[str, Any]) -> dict[str, str]:
    """Write what this rank holds; the file's name, and its SHA-256 in hex."""
    rank, world_size = distributed.rank(), distributed.world_size()
    name = f"state-{rank + 1:05d}-of-{world_size:05d}.safetensors"
    return {name: write_state(folder / name, held, rank=rank, world_size=world_size, extra=extra)}


def load_state(folder: Path, held: Iterator[Held]) -> dict[str, Any]:
    """Fill what this rank holds from what any number of ranks wrote; what was written beside it."""
    return read_state(sorted(folder.glob("state-*.safetensors")), held, rank=distributed.rank())


def moments_in(state: Mapping[Any, Any], parameter: Tensor) -> tuple[Tensor, Tensor]:
    """Moments on the CPU; a parameter that never had a gradient has none yet."""
    if "exp_avg" not in state.get(parameter, {}):
        return torch.zeros_like(parameter, device="cpu"), torch.zeros_like(parameter, device="cpu")
    return state[parameter]["exp_avg"].cpu(), state[parameter]["exp_avg_sq"].cpu()


def steps_in(state: Mapping[Any, Any]) -> int:
    """Optimiser steps taken."""
    return max((int(entry["step"]) for entry in state.values() if "step" in entry), default=0)
