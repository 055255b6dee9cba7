"""Hydra's multirun: every job is a run of its own, and a search minimises what ligo.grow gives back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import REPO
from tests.test_commands import BUDGET, SMALL, TARGET, text_file

__all__ = ["text_file"]  # a fixture

_TINY = (
    *SMALL, *TARGET, *BUDGET, "small.train.max_tokens=1024", "train.max_tokens=1024", "scratch.max_tokens=1024",
    "data=custom", "operator=exact", "stages=[write,train]",
)  # fmt: skip


def multirun(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPO), "LIGO_CACHE": str(folder / "cache")}
    return subprocess.run(
        [sys.executable, "-m", "ligo.grow", "-m", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip


def losses(study: Path) -> dict[Path, float]:
    return {
        path.parent: json.loads(path.read_text())["train"]["loss"] for path in study.glob("*/stages.json")
    }


def test_each_job_is_a_run_in_a_folder_of_its_own(text_file: Path, tmp_path: Path) -> None:
    done = multirun(tmp_path, *_TINY, f"data.path={text_file}", "run.study=seeds", "seed=1,2")
    assert done.returncode == 0, done.stderr
    found = losses(tmp_path / "runs" / "seeds")
    seeds = {json.loads((run / "manifest.json").read_text())["seed"] for run in found}
    assert (len(found), seeds) == (2, {1, 2})
    assert {(run / "STATUS").read_text() for run in found} == {"done\n"}
    assert len({run.name for run in found}) == 2 == len(set(found.values()))
    assert not (tmp_path / "multirun").exists(), "Hydra's own records lie with the study"


def test_one_folder_for_several_jobs_is_refused_before_any_begins(tmp_path: Path) -> None:
    done = multirun(tmp_path, *_TINY, "data.path=nowhere.txt", f"run.dir={tmp_path / 'one'}", "seed=1,2")
    assert done.returncode == 2
    assert "run.dir" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "one").exists()


def test_words_are_checked_as_those_of_one_run(tmp_path: Path) -> None:
    for word, why in (
        ("sed=1,2", "there is no option 'sed'"),
        ("operator=exact,stak", "operator=stak is not known"),
        ("seed=one,two", "could not be converted to Integer"),
    ):
        done = multirun(tmp_path, *_TINY[:-2], "stages=[write]", "data.path=nowhere.txt", word)
        assert done.returncode == 2, done.stderr
        assert why in done.stderr and "Traceback" not in done.stderr


def test_an_error_of_a_job_is_told_as_any_other(tmp_path: Path) -> None:
    done = multirun(tmp_path, *_TINY, "data.path=nowhere.txt", "seed=1,2")
    assert done.returncode == 3
    assert "nowhere.txt" in done.stderr and "Traceback" not in done.stderr


def test_a_search_minimises_the_loss_that_grow_gives_back(text_file: Path, tmp_path: Path) -> None:
    pytest.importorskip(
        "hydra_plugins.hydra_optuna_sweeper", reason="the extra ligo[search] is not installed"
    )
    done = multirun(
        tmp_path, *_TINY, f"data.path={text_file}", "run.study=search", "hydra/sweeper=learning_rate",
        "hydra.sweeper.n_trials=3",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = losses(tmp_path / "runs" / "search")
    assert len(found) == 3
    best = min(found, key=found.__getitem__)
    (path,) = tmp_path.glob("**/optimization_results.yaml")
    results = yaml.safe_load(path.read_text())
    assert results["best_value"] == pytest.approx(found[best], rel=1e-12)
    rate = yaml.safe_load((best / "config.yaml").read_text())["train"]["lr"]
    assert float(results["best_params"]["train.lr"]) == pytest.approx(rate, rel=1e-9)
    rates = {yaml.safe_load((run / "config.yaml").read_text())["train"]["lr"] for run in found}
    assert len(rates) == 3 and all(1e-4 <= rate <= 1e-2 for rate in rates)
