"""Whole sweeps on this machine: with ligo.grow itself, and with a stand-in where only the sweep is in question."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from ligo.core.errors import ConfigError
from ligo.sweep import main
from ligo.sweeps import slurm
from ligo.sweeps.attempt import attempts
from ligo.sweeps.follow import UnfinishedError
from ligo.sweeps.status import planned, study_states
from ligo.sweeps.submit import ClusterConfig, LocalLauncher, check
from tests.conftest import REPO
from tests.sweeps.killing import STAND_IN, killed_sweep, start_sweep

QUIET = ("tracking=jsonl", "stages=[write]")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(REPO))


def test_a_sweep_of_ligo_grow_grows_each_arm_once(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("operator=exact,stack", *QUIET, "study.name=real", "cluster.workers=2")
    main(arguments)
    runs = sorted(path.parent for path in Path("runs/real").glob("*/STATUS"))
    assert [run.name.split("-")[0] for run in runs] == ["exact", "stack"]
    for run in runs:
        assert (run / "STATUS").read_text() == "done\n"
        assert (run / "grown" / "model.safetensors").is_file()
        digest = json.loads((run / "manifest.json").read_text())["config_hash"]
        assert run.name.endswith(digest)  # the name that the sweep gave it before it began
        assert "Growth plan" in (run / "logs" / "attempt-001.log").read_text()
    main(arguments)
    assert [len(attempts(run)) for run in runs] == [1, 1]  # finished runs are left alone
    assert "2 runs: 2 finished" in capsys.readouterr().out


def test_a_study_searches_each_arms_rate_then_runs_the_other_seeds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(
        ["+study=tiny", STAND_IN, "cluster.workers=4", "~study.arms.ligo", "study.learning_rates=[5e-4,1e-3]"]
    )
    results = {row["arm"]: row for row in json.loads(Path("runs/tiny/rates.json").read_text())}
    assert set(results) == {"scratch", "continue-small", "exact"}
    for row in results.values():
        assert row["rates_tried"] == [5e-4, 1e-3, 2e-3, 4e-3]
        assert (row["best_rate"], row["bracketed"]) == (2e-3, True)
        assert row["losses"] == [4.0, 4.01]
        assert len(row["runs"]) == (
            6 if row["arm"] == "scratch" else 5
        )  # its second best rate has a second seed too
    out = capsys.readouterr().out
    assert "16 runs: 16 finished" in out
    assert "2 of 2" in out
    others = [f"~study.arms.{arm}" for arm in ("ligo", "scratch", "continue-small")]
    main(["+study=tiny", STAND_IN, "study.learning_rates=[5e-4,1e-3]", *others])
    assert "5 runs: 5 finished" in capsys.readouterr().out
    again = {row["arm"]: row for row in json.loads(Path("runs/tiny/rates.json").read_text())}
    assert again == results  # arms that are left out keep what was found of them


def test_the_best_run_is_the_lowest_of_all_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    main(
        [
            "train.lr=2e-3,4e-3",
            "operator=exact",
            "stages=[write,train]",
            "study.name=seeds",
            STAND_IN,
            "study.seeds=[1,0]",
            "cluster.workers=4",
        ]
    )
    runs = json.loads(Path("runs/seeds/study.json").read_text())["runs"]
    capsys.readouterr()
    main(["best", "seeds"])
    best = runs[Path(capsys.readouterr().out.strip()).name]
    assert best["seed"] == 0
    assert best["arm"] == "0.002"
    with pytest.raises(ConfigError, match="no result of an arm 'nobody'(.|\n)*best seeds '0.002'"):
        main(["best", "seeds", "nobody"])


def test_what_was_preempted_is_tried_again_and_what_failed_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    # the stand-in makes the trouble that the name of an arm asks for
    arms = [
        f"study.arms.{arm}=[operator=exact,operator.noise={noise}]"
        for noise, arm in enumerate(("preempted", "fails", "vanishes", "good"), start=1)
    ]
    with pytest.raises(
        UnfinishedError, match="2 of 4 runs did not finish(.|\n)*python -m ligo.sweep log "
    ) as stopped:
        main([*arms, STAND_IN, *QUIET, "cluster.workers=4", "study.name=trouble"])
    assert stopped.value.exit_code in (3, 5)  # as the run that failed, or 5 for one that vanished
    states = {state.name.split("-")[0]: state for state in study_states(Path("runs/trouble"))}
    assert {arm: state.state for arm, state in states.items()} == {
        "preempted": "finished", "fails": "failed", "vanishes": "crashed", "good": "finished",
    }  # fmt: skip
    assert {arm: state.num_attempts for arm, state in states.items()} == {
        "preempted": 2, "fails": 1, "vanishes": 1, "good": 1,
    }  # fmt: skip
    assert "failed: the text is gone." in capsys.readouterr().out


def test_a_rate_that_diverges_counts_as_the_worst(capsys: pytest.CaptureFixture[str]) -> None:
    main(["study.arms.diverges=[operator=exact]", STAND_IN, "stages=[write,train]", "tracking=jsonl",
          "study.learning_rates=[1e-3,2e-3]", "study.max_extensions=1", "study.name=worst"])  # fmt: skip
    (row,) = json.loads(Path("runs/worst/rates.json").read_text())
    assert row["rates_tried"] == [5e-4, 1e-3, 2e-3]
    assert (row["bracketed"], row["losses"]) == (False, [None])


def test_a_sweep_killed_again_and_again_ends_with_every_run_once(tmp_path: Path) -> None:
    found = killed_sweep(tmp_path, num_runs=12, kills=2)
    assert (found["num_runs"], found["finished"], found["double"]) == (12, 12, [])


def test_a_sweep_that_is_stopped_stops_its_runs_and_the_next_goes_on(tmp_path: Path) -> None:
    arguments = ("operator=exact,stack", *QUIET, "study.name=stopped", "study.seeds=[0,1,2,3]")
    slow = f"cluster.command=[{sys.executable},-c,'import time; time.sleep(60)']"
    sweep = start_sweep(tmp_path, *arguments, slow)
    while not list(tmp_path.glob("runs/stopped/*/logs/attempt-*.log")):
        assert sweep.poll() is None
        time.sleep(0.01)
    sweep.send_signal(signal.SIGTERM)
    output, _ = sweep.communicate(timeout=30)
    assert sweep.returncode == 75, output
    assert "stopped by SIGTERM; the same command goes on" in output
    states = [state.state for state in study_states(tmp_path / "runs" / "stopped")]
    assert states.count("crashed") == 1  # the sleeper knows no signals
    assert states.count("waiting") == 7
    main([*arguments, STAND_IN, "cluster.workers=4"])
    assert {state.state for state in study_states(tmp_path / "runs" / "stopped")} == {"finished"}
    assert len(planned(tmp_path / "runs" / "stopped")) == 8


# --- what cannot be ---------------------------------------------------------------------------------------


def test_slurm_that_is_not_there_is_said_and_what_works_instead(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        ConfigError,
        match="sbatch, which is not on the PATH(.|\n)*cluster=local works here(.|\n)*Try: cluster=local",
    ):
        slurm.check(ClusterConfig(name="slurm"))


def test_slurm_that_does_not_answer_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for tool, code in (("sbatch", 0), ("sinfo", 1)):
        (tmp_path / tool).write_text(
            f"#!/bin/sh\necho 'slurm_load_partitions: Unable to contact' >&2\nexit {code}\n"
        )
        (tmp_path / tool).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(ConfigError, match="Slurm does not answer .slurm_load_partitions: Unable to contact."):
        slurm.check(ClusterConfig(name="slurm"))


def test_more_gpus_than_there_are_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    with pytest.raises(
        ConfigError, match="takes 4 GPUs, and this machine has 2(.|\n)*Try: cluster.workers=1"
    ):
        check(ClusterConfig(workers=2, processes=2))
    launcher = LocalLauncher(workers=2)
    assert [launcher._environment(place)["CUDA_VISIBLE_DEVICES"] for place in (0, 1)] == ["0", "3"]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,3"
