"""Any bytes as the index of a folder of shards: refused, or the two shards are read, each tensor where it is."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from ligo.checkpoint.inspect import INDEX_FILE, inspect_checkpoint
from ligo.core.errors import CheckpointError
from tests.trust.samples import published


@cache
def _folder() -> tuple[tempfile.TemporaryDirectory[str], Path]:
    kept = tempfile.TemporaryDirectory()
    return kept, published(Path(kept.name) / "model")


def check(data: bytes) -> None:
    folder = _folder()[1]
    (folder / INDEX_FILE).write_bytes(data)
    try:
        contents = inspect_checkpoint(folder)
    except CheckpointError:
        return
    assert {file.name for file in contents.headers} <= {"x.safetensors", "y.safetensors"}
    held = {name: file.name for file, header in contents.headers.items() for name in header.tensors}
    assert held == contents.mapped
