"""Any bytes as a safetensors file: refused, or taken with every byte in one tensor, and then the library takes it too."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

from safetensors import safe_open

from ligo.checkpoint.headers import BYTES, DamagedFile
from ligo.checkpoint.load import check_tensors


def check(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.safetensors"
        file.write_bytes(data)
        try:
            header = check_tensors(file)
        except DamagedFile:
            return
        sizes = [BYTES[entry.dtype] * math.prod(entry.shape) for entry in header.tensors.values()]
        assert len(header.content) + sum(sizes) == len(data)
        with safe_open(file, "numpy") as handle:
            assert set(handle.keys()) == header.tensors.keys()
