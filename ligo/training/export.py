"""A checkpoint's model as a stock Hugging Face folder, from the files alone: no engine, and one tensor at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ligo.checkpoint.assets import write_stock_files
from ligo.checkpoint.hashes import write_hashes
from ligo.checkpoint.optimizer import MOMENTS, OPTIMIZER_FILE, write_optimizer_file
from ligo.checkpoint.reader import read_json_object
from ligo.checkpoint.writer import write_weights
from ligo.families.base import Family, family_of
from ligo.families.stock import as_on_disk, skeleton
from ligo.training.state import WEIGHT, SavedState

if TYPE_CHECKING:
    from torch import Tensor

EXPORTED = "model"
"""The stock folder inside a checkpoint, where `train.export` asks for one."""


def export_checkpoint(checkpoint: Path, folder: Path, *, moments: bool = False) -> None:
    """Write the model of a checkpoint, in float32, and the tokenizer of its run, so that plain `from_pretrained` loads it.

    Args:
        checkpoint: `step-NNNNNNNN`, already verified.
        folder: is made, where it is not there yet.
        moments: write Adam's moments beside it, where there are any, to be grown with the model
            (`operator.optimizer_state=grow`).

    Raises:
        CheckpointError: the files do not hold the whole model.
        ResourceError: the disk is full.
    """
    config = read_json_object(checkpoint / "config.json")
    family, saved = family_of(config), SavedState(state_files(checkpoint))
    folder.mkdir(parents=True, exist_ok=True)
    written = write_weights(folder, _on_disk(family, saved, WEIGHT))
    stock = {**config, "dtype": "float32"}
    write_stock_files(folder, config=stock, source_folder=_tokenizer_of(checkpoint))
    if moments and all(set(MOMENTS) <= set(saved.keys_of(name)) for name in saved.names()):
        _write_moments(folder / OPTIMIZER_FILE, family, saved)
    write_hashes(folder, written["checksums"])


def _tokenizer_of(checkpoint: Path) -> Path:
    """RUN/tokenizer, of RUN/checkpoints/ARM/step-NNNNNNNN or a segment below ARM; else a folder without one."""
    above = (folder / "tokenizer" for folder in checkpoint.absolute().parents[2:4])
    return next((folder for folder in above if folder.is_dir()), checkpoint)


def state_files(checkpoint: Path) -> list[Path]:
    """The files of all ranks."""
    return sorted(checkpoint.glob("state-*.safetensors"))


def _on_disk(family: Family, saved: SavedState, key: str) -> Iterator[tuple[str, Tensor]]:
    """Tensors of the model under their names on disk."""
    model = skeleton(family)
    for name, _ in model.named_parameters():
        yield from as_on_disk(model, {name: saved.whole(key, name).to(torch.float32)}).items()


def _write_moments(file: Path, family: Family, saved: SavedState) -> None:
    step = max(int(saved.numbers(name).get("step", 0)) for name in saved.names())
    pairs = zip(*(_on_disk(family, saved, moment) for moment in MOMENTS), strict=True)
    shapes = {name: tuple(tensor.shape) for name, tensor in _on_disk(family, saved, WEIGHT)}
    write_optimizer_file(file, step, shapes, ((name, first, second) for (name, first), (_, second) in pairs))
