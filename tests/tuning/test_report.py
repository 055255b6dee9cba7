"""A tuning run has a report as every run has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ligo.reports.html import write_report
from tests.tuning.tuned import checkpoint, instructions, run


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("runs")
    base, data = checkpoint(root / "base"), instructions(root / "words.json")
    return [
        run(root / method, base, data, f"tuning={method}", f"train.lr={rate}")
        for method, rate in (("full", "1e-2"), ("lora", "2e-2"))
    ]


def test_the_page_says_what_tuning_did_and_nothing_of_growth(tmp_path: Path, folders: list[Path]) -> None:
    page = write_report([folders[1]], tmp_path / "report.html")[0].read_text()
    assert "Tuning lowered the loss of responses that were held out" in page
    assert "The tuning" in page and "tuned (lora)" in page
    for word in ("growing saves", "The growth", "Target loss V*", "plan.json is missing", "C_scratch"):
        assert word not in page


def test_runs_stand_side_by_side(tmp_path: Path, folders: list[Path]) -> None:
    page = write_report(folders, tmp_path / "report.html")[0].read_text()
    assert page.count("Tuning lowered the loss") == 2


def test_the_summary_holds_what_the_run_left(folders: list[Path]) -> None:
    for folder, left in zip(
        folders, ("trained/model.safetensors", "adapter/adapter_model.safetensors"), strict=True
    ):
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["tuning"]["stored_bytes"] == (folder / left).stat().st_size
        assert summary["arms"][0]["final_loss"] == summary["tuning"]["loss"]
        assert summary["tuning"]["peak_memory_bytes"] > 0
