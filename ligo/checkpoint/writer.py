"""Write tensors that are in memory, in the layout that `from_pretrained` reads; and what every write asks of the disk.

One shard is held beside them at a time. File names carry the number of shards, which is known only at the end, so the
shards are renamed then. What is grown is written by `growth.write`, which knows everything beforehand.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ligo.checkpoint.hashes import checksum
from ligo.checkpoint.shards import check_shard_bytes, shard_name, write_index
from ligo.core import units
from ligo.core.errors import ResourceError, disk_full

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
        num_bytes (of all tensors), num_shards, checksums (file name -> as in `hashes`).

    Raises:
        ConfigError: `shard_bytes` is not positive.
        ResourceError: the disk is full or cannot be written.
        ValueError: a name is there twice, or there is no tensor at all.
    """
    check_shard_bytes(shard_bytes)
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

    names_of = {shard_name(number, len(shards)): shard for number, shard in enumerate(shards)}
    with disk_errors(folder):
        for number, file in enumerate(names_of):
            os.rename(_aside(folder, number), folder / file)
        checksums = {file: checksum(folder / file) for file in names_of}
    write_index(folder, names_of, num_bytes)
    return {"num_bytes": num_bytes, "num_shards": len(shards), "checksums": checksums}


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


def check_free_memory(needed_bytes: int) -> None:
    """Refuse work that would not fit into memory, where the system says what is free.

    Raises:
        ResourceError: fewer than `needed_bytes` are.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return
    if available < needed_bytes:
        raise ResourceError(
            f"writing the grown model needs {units.num_bytes(needed_bytes)} of memory, but "
            f"{units.num_bytes(available)} are free.\n"
            f"  Try: end other programs, or a machine with {units.num_bytes(needed_bytes - available)} more"
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
