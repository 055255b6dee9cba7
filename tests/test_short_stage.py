"""The control with a short schedule: it is the scratch run at the grown run's budget, and the summary shows it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ligo import grow
from ligo.study import make_cells
from ligo.sweeps.grid import StudyConfig
from tests.test_commands import BUDGET, SMALL, TARGET, run, text_file

__all__ = ["text_file"]  # a fixture

_TOKENS = (
    "train.max_tokens=1024",
    "scratch.max_tokens=2048",
    "scratch.lr=2e-3",
    "small.train.max_tokens=1024",
)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.fixture
def command(text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    monkeypatch.setenv("LIGO_CACHE", str(tmp_path / "cache"))
    return (*SMALL, *TARGET, *BUDGET, *_TOKENS, f"data.path={text_file}", "data=custom", "operator=exact")


def test_short_is_scratch_at_the_grown_budget(command: tuple[str, ...], tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    stages = "stages=[learn,write,train,scratch,short,report]"
    assert run(grow, *command, stages, "hardware.watts=100", f"run.dir={one}") == 0
    assert run(grow, *command, "stages=[scratch]", "scratch.max_tokens=1024", f"run.dir={other}") == 0
    short, scratch = read(one / "stages.json")["short"], read(other / "stages.json")["scratch"]
    assert (short["loss"], short["tokens"], short["peak_lr"]) == (scratch["loss"], 1024, 2e-3)

    summary = read(one / "summary.json")
    assert not any("schedule as short" in missing for missing in summary["not_measured"])
    assert [arm["name"] for arm in summary["arms"]] == ["grown", "scratch", "short"]
    of = [(row["of"], row["share"], row["convention"]) for row in summary["savings_by_target"]]
    assert of[-2:] == [("short", 1.0, "small model sunk"), ("short", 1.0, "small model charged")]
    sunk, whole = summary["savings"][0], next(r for r in summary["savings_by_target"] if r["share"] == 1)
    assert whole["flops"]["saving"] == sunk["saving"] and whole["loss"] == summary["target_loss"]["value"]

    phases, arms = summary["phases"], {arm["name"]: arm for arm in summary["arms"]}
    assert phases["operator"]["flops"] + phases["build"]["flops"] == sunk["operator_flops"]
    assert phases["training"]["short"]["flops"] == arms["short"]["flops"]
    per_token = arms["scratch"]["flops"] / arms["scratch"]["tokens"]
    evaluated = scratch["evaluation_tokens"]
    assert 0 < evaluated <= 1024 and evaluated % 32 == 0
    assert phases["evaluation"]["scratch"] == {"times": 3, "flops": 3 * evaluated * per_token / 3}
    hours = arms["grown"]["wall_s"] / 3600
    assert summary["cost"]["phases"]["grown"]["energy_kwh"] == pytest.approx(hours * 0.1)
    assert summary["cost"]["phases"]["grown"]["co2_kg"] is None
    page = " ".join(re.sub(r"<[^>]*>", " ", (one / "report.html").read_text()).split())
    assert "from scratch, short schedule, at its end" in page
    assert "an estimate, not metered: 100 W per device at work" in page


def test_what_would_be_the_scratch_run_again_is_refused(
    command: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(grow, *command, "stages=[short]", "scratch.max_tokens=1024", f"run.dir={tmp_path}") == 2
    assert "the stage short would add nothing" in " ".join(capsys.readouterr().err.split())


def test_a_study_searches_the_rate_of_short_as_that_of_scratch() -> None:
    arms = {"short": ["operator=exact", "stages=[short]"]}
    study = StudyConfig(arms=arms, learning_rates=[1e-3, 2e-3])
    (cell,) = make_cells(
        study, ["train.max_tokens=1024", "scratch.max_tokens=2048", "train.engine=torch", "hardware=none"]
    )
    assert (cell.loss_stage, cell.rate_key) == ("short", "scratch.lr")
    assert "scratch.lr=0.002" in cell.trial(0, 2e-3).options
