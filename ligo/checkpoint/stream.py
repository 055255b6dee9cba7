"""One safetensors file, written tensor by tensor: what it holds is said first, so that nothing has to be kept."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ligo.core.errors import disk_full

if TYPE_CHECKING:
    from torch import Tensor

_BYTES = {"F32": 4, "U8": 1}


def write_tensor_file(
    path: Path, entries: Mapping[str, tuple[str, tuple[int, ...]]], tensors: Iterable[Tensor], metadata: Mapping[str, str]
) -> None:  # fmt: skip
    """Write a file whole or not at all.

    Args:
        entries: name -> dtype as safetensors names it (F32 or U8) and shape, in the order in which they come.
        tensors: in that order; one is held at a time.

    Raises:
        ResourceError: the disk is full or cannot be written.
        ValueError: a tensor is not what its entry says.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, (dtype, shape) in entries.items():
        end = offset + _BYTES[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)  # the data begin at a multiple of eight bytes
    aside = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with open(aside, "wb") as file:
            file.write(len(encoded).to_bytes(8, "little") + encoded)
            for (name, (dtype, shape)), tensor in zip(entries.items(), tensors, strict=True):
                if tuple(tensor.shape) != shape or tensor.element_size() != _BYTES[dtype]:
                    raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, not {dtype} {shape}")
                tensor.detach().cpu().contiguous().numpy().tofile(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        raise disk_full(error, path) from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
