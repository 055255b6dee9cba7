"""A study as a W&B report: the same table and the same runs as report.html, without a login."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ligo.core.errors import ConfigError
from ligo.reports.study import load_study
from ligo.reports.study_table import markdown
from ligo.sync import main, sync_study
from ligo.tracking.wandb_report import study_report
from tests.conftest import REPO
from tests.reports.study_folder import SCRATCH, add_run
from tests.tracking.wandb_file import recorded_runs
from tests.tracking.wandb_server import running


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two arms from scratch and grown, one seed each, as a sweep leaves them."""
    folder = tmp_path / "arms"
    for arm, losses, trains in (("exact", (4.0, 3.2, 2.9), "grown"), ("scratch", SCRATCH, "scratch")):
        run = add_run(folder, arm, 0, losses, trains=trains)
        (run / "config.yaml").write_text(
            "data: {sequence_length: 32, validation_tokens: 1024}\ntracking: {project: growing}\nrun: {study: arms}\n"
        )
    return folder


def blocks(path: Path) -> dict[str, dict[str, Any]]:
    return {block["type"]: block for block in json.loads(path.read_text())["spec"]["blocks"]}


def test_the_report_is_the_comparison_of_the_html_report(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb_workspaces", reason="the extra ligo[wandb-report] is not installed")
    sync_study(study, "offline")
    written = json.loads((study / "wandb_report.json").read_text())
    assert (written["displayName"], written["description"]) == ("study arms", "Which is best?")
    found = blocks(study / "wandb_report.json")
    assert found["markdown-block"]["content"] == markdown(load_study(study))
    assert "| exact |" in found["markdown-block"]["content"]

    grid = found["panel-grid"]["metadata"]
    (compared,) = grid["runSets"]
    (names,) = compared["filters"]["filters"]
    assert names["key"] == {"section": "run", "name": "displayName"}
    runs = {
        recorded.name
        for name in ("exact-0", "scratch-0")
        for recorded in recorded_runs(study / name).values()
    }
    assert set(names["value"]) == {"exact-0 train", "scratch-0 scratch"} <= runs, "and they are there"
    panels = [panel["config"] for panel in grid["panelBankSectionConfig"]["panels"]]
    assert [(panel["xAxis"], panel["metrics"]) for panel in panels] == [
        (axis, [loss]) for loss in ("eval/loss", "train/loss") for axis in ("flops", "tokens", "wall_s")
    ]
    assert str(study / "wandb_report.json") in capsys.readouterr().out


def test_the_command_tells_a_study_from_a_run(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb_workspaces", reason="the extra ligo[wandb-report] is not installed")
    monkeypatch.setattr("sys.argv", ["ligo.sync", str(study)])
    main()
    said = capsys.readouterr().out
    order = [word for word in said.split() if "offline-run" in word]
    assert [Path(word).parent.parent.name for word in order] == ["exact-0", "scratch-0"]


def test_with_a_login_the_runs_and_the_report_are_sent(study: Path) -> None:
    pytest.importorskip("wandb_workspaces", reason="the extra ligo[wandb-report] is not installed")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    command = [sys.executable, "-m", "ligo.sync", str(study), "--mode", "online"]
    with running() as server:
        environment |= {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "0" * 40, "PYTHONPATH": str(REPO)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"published: {server.url}/me/growing/reports/study-arms--" in done.stdout
    jobs = [
        asked["jobType"] for name, asked in server.asked if name == "UpsertBucket" and asked.get("jobType")
    ]
    assert jobs == ["train", "scratch"]
    (view,) = (asked for name, asked in server.asked if name == "upsertView")
    assert (view["displayName"], view["projectName"]) == ("study arms", "growing")
    assert "| exact |" in view["spec"]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str, real: Any = importlib.util.find_spec) -> Any:
        return None if name == "wandb_workspaces" else real(name)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    monkeypatch.delitem(sys.modules, "wandb_workspaces", raising=False)
    with pytest.raises(ConfigError, match=r"a W&B report of a study(.|\n)*ligo\[wandb-report\]"):
        study_report("s", question="", table="", runs=[], project="p")
