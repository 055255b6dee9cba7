"""Weights that torch pickled, made into a stock folder once; only where the command line allows pickles."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ligo.checkpoint.assets import TOKENIZER_FILES
from ligo.checkpoint.hashes import sha256, write_hashes
from ligo.checkpoint.inspect import CONFIG_FILE, INDEX_FILE, WEIGHTS_FILE, file_inside, inspect_files
from ligo.checkpoint.load import load_pickle
from ligo.checkpoint.strict_json import INDEX_BYTES, read_json_object
from ligo.checkpoint.writer import disk_errors, write_weights
from ligo.core.errors import CheckpointError
from ligo.core.files import folder_aside
from ligo.core.log import say

if TYPE_CHECKING:
    from torch import Tensor

PICKLED_FILE, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
_COPIED = (CONFIG_FILE, "generation_config.json", "tokenizer_config.json", "README.md", *TOKENIZER_FILES)


def unpickled(folder: Path, cache: Path) -> Path:
    """The stock folder made from one whose weights are pickles alone, made now if it is not there yet; else `folder`.

    Raises:
        CheckpointError: a file is missing, leads out of the folder, or holds more than tensors.
        ResourceError: the disk is full.
    """
    if (folder / WEIGHTS_FILE).is_file() or (folder / INDEX_FILE).is_file():
        return folder
    inspect_files(folder)
    files = _files(folder)
    if not files:
        return folder
    digest = hashlib.sha256("".join(map(sha256, (file_inside(folder, CONFIG_FILE), *files))).encode())
    made = cache / "converted" / f"{folder.name}-{digest.hexdigest()[:12]}"
    if not made.is_dir():
        say(f"converting the pickles in {folder.name} to safetensors, once: {made}")
        with disk_errors(made), folder_aside(made) as aside:
            write_weights(aside, _tensors(files))
            for name in _COPIED:
                if (folder / name).is_file():
                    shutil.copyfile(folder / name, aside / name)
            write_hashes(aside)
    return made


def _files(folder: Path) -> list[Path]:
    if (folder / PICKLED_FILE).is_file():
        return [file_inside(folder, PICKLED_FILE)]
    if not (folder / PICKLED_INDEX).is_file():
        return []
    names = read_json_object(file_inside(folder, PICKLED_INDEX), INDEX_BYTES).get("weight_map")
    if not isinstance(names, dict) or any(Path(str(name)).name != name for name in names.values()):
        raise CheckpointError(
            f"{folder / PICKLED_INDEX} points to what is not the plain name of a file in the same folder.\n"
            "  Try: download the checkpoint again"
        )
    return [file_inside(folder, name) for name in sorted(set(names.values()))]


def _tensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor once; one that is tied to another is left out, as `save_pretrained` does."""
    from torch import Tensor

    for file in files:
        saved = load_pickle(file)
        seen: set[tuple[Any, ...]] = set()
        if not isinstance(saved, dict) or not all(isinstance(tensor, Tensor) for tensor in saved.values()):
            raise CheckpointError(
                f"{file} holds something other than a model's tensors by name.\n"
                "  Try: torch.save(model.state_dict(), FILE)"
            )
        for name, tensor in saved.items():
            place = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride())
            if place not in seen:
                seen.add(place)
                yield name, tensor
