"""Records inside files that somebody else may have made: whatever they say, it is a refusal and not an accident."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import save_file

from ligo.core.errors import CheckpointError
from ligo.export import export
from ligo.learning.state import OPERATOR_FILE
from ligo.training.resume import MANIFEST
from tests.trust.samples import read_operator, tensors_of, write_operator

LEARNING = {"best_step": 1, "start_loss": 2.0, "best_loss": 1.0, "flops": 1.0, "tokens": 1, "parameters": 1, "small": "fp32"}  # fmt: skip
DEEP = "[" * 10_000 + "]" * 10_000


@pytest.mark.parametrize(
    ("growth", "learning"),
    [
        (DEEP, "{}"),
        ("[1]", json.dumps(LEARNING)),
        ("{}", json.dumps({**LEARNING, "best_step": "1"})),
        ("{}", json.dumps({**LEARNING, "flops": None})),
        ("{}", json.dumps(LEARNING).replace("2.0", "NaN")),
        ("{}", json.dumps({**LEARNING, "more": 1})),
        ("{}", DEEP),
    ],
)
def test_an_operator_that_does_not_say_what_it_is(tmp_path: Path, growth: str, learning: str) -> None:
    write_operator(tmp_path)
    metadata = {"format": "pt", "growth": growth, "learning": learning}
    save_file(tensors_of(tmp_path / OPERATOR_FILE), tmp_path / OPERATOR_FILE, metadata)
    with pytest.raises(CheckpointError, match=f"cannot read the operator {OPERATOR_FILE}"):
        read_operator(tmp_path)


@pytest.mark.parametrize("text", [DEEP, "[1]", "1", "{}", ""])
def test_a_manifest_that_is_none(tmp_path: Path, text: str) -> None:
    checkpoint = tmp_path / "step-00000001"
    checkpoint.mkdir()
    (checkpoint / MANIFEST).write_text(text)
    with pytest.raises(CheckpointError, match="it has no manifest.json that verifies"):
        export(checkpoint, tmp_path / "out")
