"""A real checkpoint on real instructions: every method lowers the loss of responses that were held out."""

from __future__ import annotations

from pathlib import Path

import pytest

from ligo.core.run import Run
from tests.conftest import SHARED_DATA
from tests.tuning.tuned import run


@pytest.mark.parametrize(
    ("method", "rate"),
    [("full", "5e-4"), ("lora", "2e-3"), ("vera", "2e-2"), ("qlora", "2e-3"), ("qvera", "2e-2")],
)
def test_every_method_lowers_the_loss_of_responses(
    tmp_path: Path, stories260k: Path, method: str, rate: str
) -> None:
    alpaca = SHARED_DATA / "alpaca-5k"
    if not alpaca.is_dir():
        pytest.skip("the Alpaca sample is not beside this checkout (../shared/data)")
    folder = run(
        tmp_path / "run", stories260k, alpaca / "valid.jsonl.gz", f"tuning={method}", f"train.lr={rate}",
        "train.steps=12", "train.evaluate_every=12", "data.on_long=drop", "data.validation_examples=16",
    )  # fmt: skip
    result = Run(folder).stage_results()["tune"]
    assert result["loss"] < result["start_loss"] - 0.1
