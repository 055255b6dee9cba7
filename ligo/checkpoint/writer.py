"""Write tensors as they come, in the layout that `from_pretrained` reads.

One shard is held in memory at a time. File names carry the number of shards, which is known only at the
end, so the shards are renamed then.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ligo.checkpoint.reader import INDEX_FILE, WEIGHTS_FILE
from ligo.core import units
from ligo.core.errors import ConfigError, ResourceError, disk_full
from ligo.core.files import write_json

if TYPE_CHECKING:
    import torch


def write_weights(
    folder: Path, tensors: Iterable[tuple[str, torch.Tensor]], *, shard_bytes: int = 5 * 10**9
) -> dict[str, Any]:
    """Write `tensors` (name, tensor of any shape) into `folder`, a fresh one from `folder_aside`.

    Tensors that the model ties are given once, under the name that `save_pretrained` would keep.

    Args:
        folder: gets model.safetensors, or numbered shards and their index.
        tensors: taken one by one; none is kept once its shard is written.
        shard_bytes: largest shard; a tensor that is larger still gets a shard of its own.

    Returns:
        num_bytes (of all tensors), num_shards, sha256 (file name -> hex digest).

    Raises:
        ConfigError: `shard_bytes` is not positive.
        ResourceError: the disk is full or cannot be written.
        ValueError: a name is there twice, or there is no tensor at all.
    """
    if shard_bytes <= 0:
        raise ConfigError(
            f"write.shard_bytes={shard_bytes} is not a size.\n  Try: write.shard_bytes=5000000000"
        )
    shards: list[list[str]] = []
    names: set[str] = set()
    held: dict[str, torch.Tensor] = {}
    held_bytes = num_bytes = 0

    def flush() -> None:
        nonlocal held_bytes
        _save(held, _aside(folder, len(shards)))
        shards.append(list(held))
        held.clear()
        held_bytes = 0

    for name, tensor in tensors:
        if name in names:
            raise ValueError(f"the tensor '{name}' is given twice")
        size = tensor.numel() * tensor.element_size()
        if held and held_bytes + size > shard_bytes:
            flush()
        held[name] = tensor.detach().cpu().contiguous()
        names.add(name)
        held_bytes += size
        num_bytes += size
    if not names:
        raise ValueError("there is no tensor to write")
    flush()

    files = [_final_name(number, len(shards)) for number in range(len(shards))]
    with disk_errors(folder):
        for number, file in enumerate(files):
            os.rename(_aside(folder, number), folder / file)
        checksums = {file: _sha256(folder / file) for file in files}
    if len(shards) > 1:
        weight_map = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
        index = {"metadata": {"total_size": num_bytes}, "weight_map": dict(sorted(weight_map.items()))}
        write_json(folder / INDEX_FILE, index)
    return {"num_bytes": num_bytes, "num_shards": len(shards), "sha256": checksums}


def check_free_disk(folder: Path, needed_bytes: int) -> None:
    """Refuse work that would fill the disk below `folder`, which need not exist yet.

    Raises:
        ResourceError: fewer than `needed_bytes` are free there.
    """
    parent = Path(folder).expanduser().absolute()
    while not parent.exists():
        parent = parent.parent
    free_bytes = shutil.disk_usage(parent).free
    if free_bytes < needed_bytes:
        raise ResourceError(
            f"writing {folder} needs {units.num_bytes(needed_bytes)}, but {units.num_bytes(free_bytes)} are "
            f"free on that disk.\n"
            f"  Try: free {units.num_bytes(needed_bytes - free_bytes)}, or choose another disk: run.dir=DIR"
        )


@contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turn what goes wrong while writing safetensors below `where` into a message about the disk.

    Raises:
        ResourceError: the disk is full or cannot be written.
    """
    from safetensors import SafetensorError

    try:
        yield
    except OSError as error:
        raise disk_full(error, where) from error
    except SafetensorError as error:  # carries the system's error number in its text only
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise disk_full(OSError(int(number[1]), os.strerror(int(number[1]))), where) from error


def _save(tensors: dict[str, torch.Tensor], file: Path) -> None:
    from safetensors.torch import save_file

    with disk_errors(file):
        save_file(tensors, file, metadata={"format": "pt"})  # from_pretrained refuses files without it
        file.chmod(0o644)  # safetensors writes for the owner alone; checkpoints are shared


def _aside(folder: Path, number: int) -> Path:
    return folder / f"shard-{number + 1:05d}.tmp"


def _final_name(number: int, num_shards: int) -> str:
    return WEIGHTS_FILE if num_shards == 1 else f"model-{number + 1:05d}-of-{num_shards:05d}.safetensors"


def _sha256(file: Path) -> str:
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
