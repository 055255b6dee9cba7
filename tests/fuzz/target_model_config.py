"""Any bytes as a config.json beside weights: refused, or a model that the weights are large enough for."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from ligo.checkpoint.reader import Checkpoint
from ligo.core.errors import LigoError
from ligo.families.base import family_of
from ligo.families.stock import expected_shapes
from tests.trust.samples import published


@cache
def _folder() -> tuple[tempfile.TemporaryDirectory[str], Path]:
    kept = tempfile.TemporaryDirectory()
    return kept, published(Path(kept.name) / "model")


def check(data: bytes) -> None:
    folder = _folder()[1]
    (folder / "config.json").write_bytes(data)
    try:
        checkpoint = Checkpoint.open(folder)
        family = family_of(checkpoint.config)
        checkpoint.named_for(family).expect(expected_shapes(family))
    except LigoError:
        return
    held = sum(
        entry.end - entry.begin
        for header in checkpoint._headers.values()
        for entry in header.tensors.values()
    )
    assert family.num_parameters * 4 == held
