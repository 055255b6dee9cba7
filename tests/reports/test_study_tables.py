"""The tables of studies in experiments/: made from results.json, which is counted again from the evaluations in it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from experiments.tables import PUBLISHED, brief, differences, tables
from ligo.reports.html import write_study_report

from .study_folder import SCRATCH, add_run

REPO = Path(__file__).resolve().parents[2]


def study_of(tmp_path: Path) -> dict[str, Any]:
    folder = tmp_path / "sizes"
    for seed in range(3):
        add_run(folder, "scratch", seed, SCRATCH, trains="scratch")
        add_run(folder, "short", seed, (6.0, 4.0, 3.3), trains="short")
        add_run(folder, "ligo", seed, (4.0, 3.2, 3.0 - 0.1 * seed))
        add_run(folder, "stack", seed, (4.0, 3.4, 3.3))
    return dict(json.loads(write_study_report(folder, tmp_path / "out" / "report.html")[1].read_text()))


def test_figures_are_counted_again_from_evaluations(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    assert list(differences(study)) == []
    (grown,) = (run for run in study["runs"] if run["run"] == "ligo-1")
    grown["grown"]["evaluations"]["loss"][-1] = 3.1
    found = list(differences(study))
    assert any(what.startswith("ligo: 1.0 small model sunk flops: ") for what in found)
    assert any("is not that of its last evaluation" in what for what in found)
    grown["grown"]["final_loss_nats"] = 3.1
    assert any(what.startswith("ligo: final loss ") for what in differences(study))


def test_a_row_of_the_table(tmp_path: Path) -> None:
    rows = [line for line in tables([study_of(tmp_path)]).splitlines() if line.startswith("| sizes ")]
    cells = {row.split(" | ")[1]: row.strip("| ").split(" | ")[2:] for row in rows}
    # grown: 2e9 FLOPs and 5e8 of its operator, of 4e9; the small model took 1e9 more; 200 + 10 tokens of 400; of the short 2e9
    assert cells["ligo"][:3] == [
        "37.5 % [37.5 %, 37.5 %]",
        "12.5 % [12.5 %, 12.5 %]",
        "47.5 % [47.5 %, 47.5 %]",
    ]
    assert cells["stack"][:3] == ["not reached"] * 3
    assert cells["stack"][3].startswith("-25.0 %")


def test_the_accuracy_of_images_stands_beside_the_loss_and_is_counted_again(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    for seed in range(3):
        add_run(folder, "scratch", seed, SCRATCH, trains="scratch", accuracy=0.5)
        add_run(folder, "ligo", seed, (4.0, 3.2, 3.0), accuracy=0.5 + 0.1 * seed)
    _, results, table, *_ = write_study_report(folder, tmp_path / "out" / "report.html")
    assert "3.0000, 3.0000]; 60.0 % ± 10.0 % [50.0 %, 70.0 %] right |" in table.read_text()
    study = json.loads(results.read_text())
    assert "; 60.0 % [50.0 %, 70.0 %] right |" in tables([study])
    assert list(differences(study)) == []
    study["runs"][-1]["grown"]["final_accuracy"] = 0.9
    assert any(what.startswith("ligo: final accuracy ") for what in differences(study))


def test_in_brief_grown_arms_without_an_interval_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "sizes"
    for seed in range(3):
        add_run(folder, "scratch", seed, SCRATCH, trains="scratch")
        add_run(folder, "ligo", seed, (4.0, 3.2, 3.0))
    add_run(folder, "stack", 0, (4.0, 3.2, 3.0))
    study = json.loads(write_study_report(folder, tmp_path / "out" / "report.html")[1].read_text())
    study["name"] = "gpt2"  # of which LiGO's paper speaks
    short = brief([study, study | {"name": "scaling-1"}]).splitlines()
    arms = [
        [row.split(" | ")[1] for row in rows if row.startswith("| gpt2 |")]
        for rows in (tables([study]).splitlines(), short)
    ]
    assert (sorted(arms[0]), sorted(arms[1])) == (["ligo", "scratch", "stack"], ["ligo", "scratch"])
    ligo, scratch = (next(row for row in short if f"| {arm} |" in row) for arm in ("ligo", "scratch"))
    assert "not run" in ligo  # there is no short schedule
    assert PUBLISHED["gpt2"] in ligo
    assert PUBLISHED["gpt2"] not in scratch
    assert not any("scaling-1" in row for row in short)


def test_an_arm_that_was_there_at_its_start_is_not_said_to_miss_the_loss(tmp_path: Path) -> None:
    folder = tmp_path / "early"
    add_run(folder, "scratch", 0, SCRATCH, trains="scratch")
    add_run(folder, "short", 0, (6.0, 4.0, 3.3), trains="short")
    add_run(folder, "ligo", 0, (1.0, 0.9, 0.8))
    study = json.loads(write_study_report(folder, tmp_path / "out" / "report.html")[1].read_text())
    row = next(line for line in tables([study]).splitlines() if "| ligo |" in line)
    assert row.count("met at the start") == 3  # in FLOPs, in tokens, against the short schedule
    assert "not reached" not in row


def test_the_tables_here_are_those_of_the_results() -> None:
    check = [sys.executable, "-m", "experiments.tables", "check"]
    done = subprocess.run(check, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
