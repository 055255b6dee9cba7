"""results.json of runs: the same schema as of a study, every number the summary's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ligo.core.errors import DataError
from ligo.reports.html import write_report, write_study_report
from ligo.reports.results import SCHEMA_VERSION

from .conftest import MODULES, RunMaker, summary_of
from .study_folder import SCRATCH, add_run

DOCUMENTED = Path(__file__).resolve().parents[2] / "docs" / "results.md"


def results_of(*folders: Path, out: Path) -> dict[str, Any]:
    return dict(json.loads(write_report(list(folders), out)[1].read_text()))


def test_numbers_of_a_run_are_those_of_its_summary(make_run: RunMaker, tmp_path: Path) -> None:
    found, summary = results_of(make_run(), out=tmp_path / "out" / "report.html"), summary_of("demo")
    assert (found["schema_version"], found["of"], found["name"]) == (SCHEMA_VERSION, "runs", "demo")
    grown, scratch = found["arms"]
    assert grown["final_loss"] == {
        "num_seeds": 1, "mean_nats": 3.0513, "deviation_nats": None, "interval_nats": None,
    }  # fmt: skip
    assert grown["reached_final_loss_of_scratch_seeds"] == 1
    saved = {row["convention"]: row["saving"]["mean_fraction"] for row in grown["savings"]}
    assert saved == {row["convention"]: row["saving"] for row in summary["savings"]}
    assert scratch["savings"] == []
    (run,) = found["runs"]
    assert run["growth"]["modules"] == MODULES
    assert run["grown"]["flops"] == 8e13
    assert found["not_measured"] == summary["not_measured"]


def test_a_loss_that_was_not_reached_is_null(make_run: RunMaker, tmp_path: Path) -> None:
    def not_reached(summary: dict[str, Any]) -> None:
        for row in summary["savings"]:
            row.update(grown_flops=None, saving=None)

    found = results_of(make_run(change=not_reached), out=tmp_path / "out" / "report.html")
    assert found["arms"][0]["reached_final_loss_of_scratch_seeds"] == 0
    assert {row["saving"] for row in found["arms"][0]["savings"]} == {None}


def test_runs_and_studies_have_one_schema_and_it_is_documented(make_run: RunMaker, tmp_path: Path) -> None:
    add_run(tmp_path / "sizes", "scratch", 0, SCRATCH, trains="scratch")
    add_run(tmp_path / "sizes", "ligo", 0, (4.0, 3.2, 3.0))
    _, numbers, _ = write_study_report(tmp_path / "sizes", tmp_path / "out" / "report.html")
    study = json.loads(numbers.read_text())
    runs = results_of(make_run("one"), make_run("two"), out=tmp_path / "out" / "report.html")
    page = DOCUMENTED.read_text()
    assert study.keys() == runs.keys()
    for part in ("arms", "runs"):
        keys = [{key for row in found[part] for key in row} for found in (study, runs)]
        assert keys[0] == keys[1]
    for key in (*study, *study["arms"][0], *study["runs"][0]):
        assert f"`{key}`" in page or f".{key}" in page, key


def test_the_table_of_runs(make_run: RunMaker, tmp_path: Path) -> None:
    table = write_report([make_run()], tmp_path / "out" / "report.html")[2].read_text().split("\n")
    assert table[0] == "## demo" and table[2].startswith("Growing saved ")
    assert "| grown (ligo) | 3.0513 | 5 M | 80 TFLOP | 2 min 30 s | 0.0005 |" in table
    assert any(line.startswith("| small model charged | 21 TFLOP | 4.2 TFLOP | 33 TFLOP |") for line in table)
    assert "- the small model trained on at equal total FLOPs" in table


def test_runs_that_were_evaluated_on_different_data_are_refused(make_run: RunMaker, tmp_path: Path) -> None:
    runs = [make_run("one"), make_run("two"), make_run("three")]
    for run, text in zip(runs, ("abc", "xyz", None), strict=True):
        if text is not None:
            (run / "manifest.json").write_text(json.dumps({"inputs": {"text": text}}))
            (run / "config.yaml").write_text("data: {sequence_length: 32, validation_tokens: 1024}\n")
    out = tmp_path / "out" / "report.html"
    with pytest.raises(DataError, match=r"one and two were evaluated on different data .*abc.*xyz"):
        write_report(runs[:2], out)
    assert not out.exists()
    notes = json.loads(write_report(runs[1:], out)[1].read_text())["notes"]
    assert "Which data these runs were evaluated on is not known, and not compared: three." in notes


@pytest.mark.parametrize(
    ("name", "text"), [("manifest.json", "{"), ("manifest.json", "[]"), ("config.yaml", "a: [")]
)
def test_a_damaged_file_of_a_run_is_named(make_run: RunMaker, tmp_path: Path, name: str, text: str) -> None:
    run = make_run()
    (run / name).write_text(text)
    with pytest.raises(DataError, match=rf"{name} cannot be read: (.|\n)*Try: the command of that run again"):
        write_report([run], tmp_path / "out" / "report.html")
