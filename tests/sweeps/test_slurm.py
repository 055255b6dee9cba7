"""A real Slurm of one node: submit, kill, requeue, collect. Takes two minutes, so it is asked for: pytest -n 0 -m slurm tests/sweeps."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ligo.core.run import Run
from ligo.sweeps.attempt import attempts
from ligo.sweeps.slurm import slurm_placed
from ligo.sweeps.status import RunState, study_states
from ligo.tracking.jsonl import read_records
from tests.conftest import REPO
from tests.sweeps.killing import STAND_IN, start_sweep
from tests.sweeps.stand_in import STEPS

pytestmark = pytest.mark.slurm

SCRIPT = REPO / "launch" / "slurm" / "local-slurm.sh"
WAIT_S = 90.0


@pytest.fixture(scope="module")
def slurm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Slurm of this machine alone, while the tests of this file run."""
    how = "pytest -n 0 -m slurm tests/sweeps"
    if "slurm" not in request.config.getoption("-m"):
        pytest.skip(f"starts a real Slurm, which takes two minutes: {how}")
    missing = [tool for tool in ("slurmctld", "slurmd", "sbatch", "munged") if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(
            f"needs root and {', '.join(missing) or 'nothing else'}: {SCRIPT.relative_to(REPO)} install, then {how}"
        )
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run([SCRIPT, "start", folder], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        patch.setenv("PYTHONPATH", str(REPO))
        yield
        subprocess.run(["scancel", "--me"], check=False)
        subprocess.run([SCRIPT, "stop", folder], check=True)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(slurm: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def until(study: Path, what: Callable[[list[RunState]], bool]) -> list[RunState]:
    """The states of a study once they are as wanted."""
    deadline = time.monotonic() + WAIT_S
    while not what(states := study_states(study, slurm_placed(study))):
        assert time.monotonic() < deadline, f"still {states}"
        time.sleep(0.1)
    return states


def slurm_job(folder: Path) -> str:
    return (folder / "logs" / "slurm").read_text().strip()


def steps(folder: Path) -> list[int]:
    return [record["step"] for record in read_records(Run(folder).metrics)]


def test_a_sweep_of_ligo_grow_as_an_array(tmp_path: Path) -> None:
    sweep = start_sweep(
        tmp_path, "operator=exact,stack", "stages=[write,train]", "tracking=jsonl", "train.engine=torch",
        "train.max_tokens=4096", "data.validation_tokens=1024", "cluster=slurm", "study.name=array",
    )  # fmt: skip
    output, _ = sweep.communicate(timeout=300)
    assert sweep.returncode == 0, output
    assert "2 runs: 2 finished" in output
    results = json.loads(Path("runs/array/rates.json").read_text())
    assert [row["arm"] for row in results] == ["exact", "stack"]
    for row in results:
        (name,) = row["runs"]
        assert row["losses"] == [Run(Path("runs/array") / name).stage_results()["train"]["loss"]]
        assert attempts(Path("runs/array") / name)[0].where.isdigit()  # the Slurm job
    script = next(Path("runs/array/.submitit").glob("*_submission.sh")).read_text()
    for directive in ("--array=0-1%", "--signal=USR1@90", "--time=1440", "--job-name=array"):
        assert directive in script


def test_a_job_that_is_requeued_goes_on_and_a_killed_one_is_told_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_STEP_S", "1.5")
    arguments = ("operator=exact,stack,pad", "stages=[write]", STAND_IN, "cluster=slurm", "study.name=cut")
    study = tmp_path / "runs" / "cut"
    sweep = start_sweep(tmp_path, *arguments)
    until(study, lambda states: any(state.step for state in states))
    running = [study / state.name for state in study_states(study) if state.state == "running"]
    requeued = running[0]
    subprocess.run(["scontrol", "requeue", slurm_job(requeued)], check=True)
    until(study, lambda states: any(s.name == requeued.name and s.state == "queued" for s in states))

    def another(states: list[RunState]) -> list[Path]:
        return [study / s.name for s in states if s.state == "running" and s.step and s.name != requeued.name]

    (killed,) = another(until(study, lambda states: bool(another(states))))[:1]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        if f"run.dir=runs/cut/{killed.name}".encode() in path.read_bytes():
            os.kill(int(path.parent.name), signal.SIGKILL)

    output, _ = sweep.communicate(timeout=120)
    assert sweep.returncode == 5, output
    assert "1 of 3 runs did not finish" in output
    states = {state.name: state for state in study_states(study)}
    assert states[requeued.name].state == "finished"
    assert [attempt.exit_code for attempt in attempts(requeued)] == [75, 0]
    assert steps(requeued) == list(range(1, STEPS + 1))  # it went on where it had been cut
    assert (states[killed.name].state, states[killed.name].why) == ("crashed", "killed by SIGKILL")

    again = start_sweep(tmp_path, *arguments)
    output, _ = again.communicate(timeout=120)
    assert again.returncode == 0, output
    assert "3 runs: 3 finished" in output
    assert [attempt.exit_code for attempt in attempts(killed)] == [-9, 0]
    assert steps(killed) == list(range(1, STEPS + 1))
    assert sum(len(attempts(study / name)) for name in states) == 5


def test_a_job_that_somebody_cancels_stays_cancelled_until_the_next_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_STEP_S", "1.5")
    arguments = ("operator=exact", "stages=[write]", STAND_IN, "cluster=slurm", "study.name=cancelled")
    study = tmp_path / "runs" / "cancelled"
    sweep = start_sweep(tmp_path, *arguments)
    (state,) = until(study, lambda states: any(state.step for state in states))
    subprocess.run(["scancel", slurm_job(study / state.name)], check=True)
    output, _ = sweep.communicate(timeout=60)
    assert sweep.returncode == 75, output
    assert "1 of 1 runs did not finish; the first: " in output
    assert "interrupted: Slurm job" in output
    assert "cancelled" in output
    monkeypatch.setenv("STAND_IN_STEP_S", "0.02")
    again = start_sweep(tmp_path, *arguments)
    output, _ = again.communicate(timeout=60)
    assert again.returncode == 0, output
    assert steps(study / state.name) == list(range(1, STEPS + 1))


def test_slurms_warning_before_the_time_limit_has_the_run_saved_and_requeued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_STEP_S", "1.5")
    study = tmp_path / "runs" / "limit"
    sweep = start_sweep(
        tmp_path, "operator=exact", "stages=[write]", STAND_IN, "cluster=slurm", "study.name=limit"
    )
    (state,) = until(study, lambda states: any(state.step for state in states))
    run = study / state.name
    subprocess.run(["scancel", "--signal=USR1", slurm_job(run)], check=True)  # what --signal=USR1@90 sends
    until(study, lambda states: states[0].state == "queued")
    output, _ = sweep.communicate(timeout=120)
    assert sweep.returncode == 0, output
    assert [attempt.exit_code for attempt in attempts(run)] == [75, 0]
    assert steps(run) == list(range(1, STEPS + 1))


def test_a_sweep_killed_while_slurm_works_finds_its_jobs_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_STEP_S", "1")
    arguments = ("operator=exact,stack,pad", "stages=[write]", STAND_IN, "cluster=slurm", "study.name=left")
    study = tmp_path / "runs" / "left"
    sweep = start_sweep(tmp_path, *arguments)
    until(study, lambda states: any(state.step for state in states))
    sweep.kill()
    sweep.communicate()
    again = start_sweep(tmp_path, *arguments)
    output, _ = again.communicate(timeout=120)
    assert again.returncode == 0, output
    assert [len(attempts(study / state.name)) for state in study_states(study)] == [1, 1, 1]


def test_two_tasks_are_two_ranks_of_one_run(tmp_path: Path) -> None:
    sweep = start_sweep(
        tmp_path, "operator=exact", "stages=[write,train]", "tracking=jsonl", "train.max_tokens=4096",
        "data.validation_tokens=1024", "cluster=slurm", "cluster.processes=2", "study.name=ranks",
    )  # fmt: skip
    output, _ = sweep.communicate(timeout=300)
    (run,) = [path.parent for path in Path("runs/ranks").glob("*/logs")]
    log = next((run / "logs").glob("attempt-*.log")).read_text()
    assert sweep.returncode == 0, output + log
    assert (run / "logs" / "rank-1.log").exists()
    assert len(attempts(run)) == 1


def test_the_sbatch_script_is_taken_by_slurm() -> None:
    done = subprocess.run(
        ["sbatch", "--test-only", "--gpus-per-node=0", "--ntasks-per-node=1", REPO / "launch" / "slurm.sh"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
