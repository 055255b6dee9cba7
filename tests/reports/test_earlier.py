"""A study goes on after its runs are gone: from results.json and new runs comes what all runs together would have given."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ligo.core.errors import DataError
from ligo.report import main
from ligo.reports.html import write_study_report

from .study_folder import SCRATCH, add_run

GROWN = (4.0, 3.2, 3.0)
Json = dict[str, Any]


def report(study: Path, out: Path, earlier: Path | None = None) -> Json:
    return dict(json.loads(write_study_report(study, out / "report.html", earlier=earlier)[1].read_text()))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "sizes"
    for seed in range(3):
        add_run(folder, "scratch", seed, SCRATCH, trains="scratch")
        add_run(folder, "ligo", seed, (*GROWN[: 2 + seed], 2.9 - seed / 100), accuracy=0.5)
    return folder


def cleared(study: Path) -> None:
    """All its runs are gone."""
    shutil.rmtree(study)
    study.mkdir()
    (study / "study.json").write_text(json.dumps({"name": "sizes", "question": "", "runs": {}}))


def test_with_earlier_runs_as_if_all_were_there(study: Path, tmp_path: Path) -> None:
    before = report(study, tmp_path / "before")
    add_run(study, "late", 0, (4.0, 3.0))
    whole = report(study, tmp_path / "whole")
    cleared(study)
    add_run(study, "late", 0, (4.0, 3.0))
    again = report(study, tmp_path / "again", tmp_path / "before" / "results.json")
    for part in ("arms", "runs"):
        rows = [
            sorted(
                (json.loads(json.dumps(row)) for row in found[part]),
                key=lambda row: (row["arm"], str(row.get("seed"))),
            )
            for found in (whole, again)
        ]
        assert rows[0] == rows[1]
    assert [arm["arm"] for arm in before["arms"]] == ["scratch", "ligo"]
    assert again["answer"] == whole["answer"] and again["not_measured"] == whole["not_measured"]


def test_a_new_run_takes_the_place_of_the_earlier_one(study: Path, tmp_path: Path) -> None:
    report(study, tmp_path / "before")
    cleared(study)
    add_run(study, "ligo", 0, (4.0, 2.0), name="ligo-again")
    found = report(study, tmp_path / "again", tmp_path / "before" / "results.json")
    ligo = next(arm for arm in found["arms"] if arm["arm"] == "ligo")
    assert ligo["runs"] == ["ligo-again", "ligo-1", "ligo-2"]
    assert ligo["reached_final_loss_of_scratch_seeds"] == 3


def test_results_alone_are_enough(study: Path, tmp_path: Path) -> None:
    whole = report(study, tmp_path / "whole")
    cleared(study)
    again = report(study, tmp_path / "again", tmp_path / "whole" / "results.json")
    assert again["arms"] == whole["arms"] and again["runs"] == whole["runs"]


def test_results_from_before_accuracy_was_kept_are_read(study: Path, tmp_path: Path) -> None:
    report(study, tmp_path / "before")
    path = tmp_path / "before" / "results.json"
    older = json.loads(path.read_text())
    for run in older["runs"]:
        for arm in ("scratch", "grown"):
            run.get(arm, {}).pop("final_accuracy", None)
    path.write_text(json.dumps(older))
    cleared(study)
    found = report(study, tmp_path / "again", path)
    assert [arm["final_accuracy"] for arm in found["arms"]] == [None, None]
    assert [arm["final_loss"] for arm in found["arms"]] == [arm["final_loss"] for arm in older["arms"]]


def test_earlier_notes_stay(study: Path, tmp_path: Path) -> None:
    (study / "rates.json").write_text(
        json.dumps([{"arm": "scratch", "size": "", "best_rate": 2e-3, "bracketed": False}])
    )
    before = report(study, tmp_path / "before")
    assert before["notes"][0].startswith("scratch: its best rate 0.002 is at the edge")
    cleared(study)
    add_run(study, "late", 0, (4.0, 3.0))
    found = report(study, tmp_path / "again", tmp_path / "before" / "results.json")
    assert f"Of earlier runs: {before['notes'][0]}" in found["notes"]
    assert not any("swept none" in what for what in found["not_measured"])  # they were swept
    twice = report(study, tmp_path / "twice", tmp_path / "again" / "results.json")
    assert f"Of earlier runs: {before['notes'][0]}" in twice["notes"]


def test_earlier_runs_on_other_data_are_refused(study: Path, tmp_path: Path) -> None:
    report(study, tmp_path / "before")
    cleared(study)
    add_run(study, "late", 0, (4.0, 3.0), text="xyz")
    with pytest.raises(DataError, match=r"late-0 and scratch-0 were evaluated on different data .*xyz.*abc"):
        report(study, tmp_path / "again", tmp_path / "before" / "results.json")


def test_results_that_do_not_fit_are_refused(study: Path, tmp_path: Path) -> None:
    whole = report(study, tmp_path / "before")
    for change, words in (
        ({"name": "other"}, "is of study other, but runs of study sizes are asked for"),
        ({"name": ...}, "is of study None, but runs of study sizes are asked for"),
        ({"of": "runs"}, "is no results.json of a study, but runs of study sizes are asked for"),
        ({"schema_version": 0}, "has schema_version 0, but 1 is read"),
        ({"runs": [{"run": "a"}]}, "is not as ligo writes it: KeyError"),
    ):
        path = tmp_path / "changed.json"
        path.write_text(
            json.dumps({key: value for key, value in (whole | change).items() if value is not ...})
        )
        with pytest.raises(DataError, match=words):
            report(study, tmp_path / "again", path)
    with pytest.raises(DataError, match="cannot be read: No such file"):
        report(study, tmp_path / "again", tmp_path / "nowhere.json")


def test_earlier_runs_beside_no_study_are_refused(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["report", str(study / "ligo-0"), "--earlier", str(tmp_path / "r.json")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "--earlier is for one study" in capsys.readouterr().err
