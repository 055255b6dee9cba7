"""Every state that a run can be in is read from its folder, with the reason."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ligo.core.errors import ConfigError, ResourceError
from ligo.core.files import write_json, write_text
from ligo.core.run import Run
from ligo.sweep import main
from ligo.sweeps.attempt import attempts, is_locked, log_tail, run_once
from ligo.sweeps.slurm import SlurmLauncher
from ligo.sweeps.status import RunState, find_run, read_state, study_states, table
from ligo.sweeps.submit import ClusterConfig
from tests.conftest import REPO

WAIT_S = 30.0


def stand_in(folder: Path, arm: str = "exact") -> list[str]:
    return [
        sys.executable, "-m", "tests.sweeps.stand_in", f"run.dir={folder}", f"run.name={arm}", "seed=0", "train.lr=2e-3",
    ]  # fmt: skip


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPO))


def until(folder: Path, state: str) -> RunState:
    """The state of a run once it is `state`."""
    deadline = time.monotonic() + WAIT_S
    while (found := read_state(folder)).state != state:
        assert time.monotonic() < deadline, f"still {found}"
        time.sleep(0.01)
    return found


def test_the_exit_code_is_that_of_the_ranks_where_a_launcher_does_not_pass_it_on(tmp_path: Path) -> None:
    child = "import sys; from ligo.core.launcher import leave_exit_code; leave_exit_code(6); sys.exit(1)"
    assert run_once(tmp_path, [sys.executable, "-c", child]) == 6
    assert attempts(tmp_path)[-1].exit_code == 6
    assert run_once(tmp_path, [sys.executable, "-c", "import sys; sys.exit(3)"]) == 3


def test_a_queue_that_does_not_answer_is_not_taken_for_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, squeue = tmp_path / "study", tmp_path / "bin" / "squeue"
    write_text(study / "run" / "logs" / "slurm", "7\n")
    squeue.parent.mkdir()
    monkeypatch.setenv("PATH", f"{squeue.parent}:{os.environ['PATH']}")

    def answers(script: str) -> None:
        squeue.write_text(f"#!/bin/sh\n{script}\n")
        squeue.chmod(0o755)

    launcher = SlurmLauncher(ClusterConfig(name="slurm"), study)
    answers("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(ResourceError, match="squeue does not answer(.|\n)*Unable to contact"):
        launcher.placed()
    answers("echo '7|PENDING|Priority'")
    known = launcher.placed()
    assert known["run"].state == "queued"
    answers("exit 1")
    assert launcher.placed() == known


@pytest.fixture
def parked(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A run whose starter (a process of its own, as a sweep is) waits for it, and which waits for ever itself."""
    folder = tmp_path / "parked"
    code = (
        "import sys; from pathlib import Path; from ligo.sweeps.attempt import run_once\n"
        "run_once(Path(sys.argv[1]), [sys.executable, '-c', sys.argv[2], sys.argv[1]])"
    )
    child = (
        "import sys, time; from pathlib import Path; from ligo.core.run import Run\n"
        "while not (Path(sys.argv[1]) / 'go').exists(): time.sleep(0.01)\n"
        "print('about to work', flush=True)\n"
        "Run(Path(sys.argv[1])).open({}, 'stages: []', 0)\n"
        "time.sleep(60)"
    )
    starter = subprocess.Popen([sys.executable, "-c", code, str(folder), child], text=True)
    yield folder, starter
    starter.kill()
    starter.wait()


def test_from_waiting_to_finished(tmp_path: Path) -> None:
    folder = tmp_path / "exact"
    assert read_state(folder) == RunState("exact", "waiting")
    assert run_once(folder, stand_in(folder)) == 0
    state = read_state(folder, ["train"])
    assert (state.state, state.step, state.num_attempts, state.exit_code) == ("finished", 5, 1, 0)
    assert read_state(folder, ["train", "report"]).state == "finished"  # the report is made anew each time
    assert read_state(folder, ["train", "scratch"]).state == "waiting"  # done with other stages than these


def test_a_run_whose_process_is_gone_has_crashed_whoever_started_it(
    parked: tuple[Path, subprocess.Popen[str]],
) -> None:
    folder, starter = parked
    assert until(folder, "starting").why == ""
    (folder / "go").touch()
    until(folder, "running")
    starter.kill()  # the sweep alone: its run goes on, and keeps its lock
    starter.wait()
    assert read_state(folder).state == "running"
    assert run_once(folder, stand_in(folder)) is None  # so nobody starts it a second time
    holder = next(
        int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline")
        if str(folder).encode() in path.read_bytes()
    )  # fmt: skip
    import os

    os.kill(holder, signal.SIGKILL)
    state = until(folder, "crashed")
    assert state.why == "its process is gone, and STATUS still says running"
    assert state.exit_code is None
    assert log_tail(folder, 10)[1] == ["about to work"]
    assert not is_locked(folder)


@pytest.mark.parametrize(
    ("arm", "code", "state", "why"),
    [
        ("fails", 3, "failed", "the text is gone."),
        ("diverges", 6, "failed", "the loss is nan at step 4."),
        ("refuses", 2, "failed", "ConfigError: this cannot be."),
        ("vanishes", -9, "crashed", "killed by SIGKILL"),
        ("preempted", 75, "preempted", "its machine was taken away; the same command goes on"),
    ],
)
def test_what_did_not_finish_says_why(arm: str, code: int, state: str, why: str, tmp_path: Path) -> None:
    folder = tmp_path / arm
    assert run_once(folder, stand_in(folder, arm)) == code
    found = read_state(folder)
    assert (found.state, found.why, found.exit_code) == (state, why, code)
    assert found.diverged == (arm == "diverges")


def test_a_status_of_an_earlier_attempt_is_not_the_reason_of_a_later_one(tmp_path: Path) -> None:
    folder = tmp_path / "fails"
    run_once(folder, stand_in(folder, "fails"))
    run_once(folder, [sys.executable, "-c", "raise SystemExit('OSError: no such device')"])
    assert read_state(folder).why == "OSError: no such device"
    run_once(folder, [sys.executable, "-c", "import os; os.kill(os.getpid(), 11)"])
    assert read_state(folder).why == "killed by SIGSEGV"
    assert [attempt.log for attempt in attempts(folder)] == [f"attempt-{n:03}.log" for n in (1, 2, 3)]


def test_a_run_that_no_sweep_started_is_judged_by_what_it_writes(tmp_path: Path) -> None:
    import os

    run = Run(tmp_path / "by-hand")
    run.open({}, "stages: []", 0)
    assert read_state(run.folder).state == "running"
    assert "not started by a sweep; wrote" in read_state(run.folder).why
    long_ago = time.time() - 3600
    os.utime(run.folder / "STATUS", (long_ago, long_ago))
    state = read_state(run.folder)
    assert state.state == "crashed"
    assert "wrote nothing for 60 min" in state.why


def test_the_table_counts_and_shows_what_wants_to_be_seen_first(tmp_path: Path) -> None:
    runs = {
        "b-1": {"seed": 0, "rate": 2e-3, "stages": ["train"]},
        "a-2": {"seed": 1, "rate": None, "stages": ["train"]},
        "c-3": {"seed": 0, "rate": 4e-3, "stages": ["train"]},
    }
    write_json(tmp_path / "study.json", {"runs": runs})
    for name in ("b-1", "a-2"):
        run_once(tmp_path / name, stand_in(tmp_path / name, "fails" if name == "b-1" else "exact"))
    lines = table(
        study_states(tmp_path, {"c-3": ("queued", "Slurm job 7_0: pending (Resources)")}), runs
    ).splitlines()
    assert lines[0] == "3 runs: 1 failed, 1 queued, 1 finished"
    assert [line.split()[0] for line in lines[2:]] == ["b-1", "c-3", "a-2"]
    assert "0.002  failed" in lines[2]
    assert lines[2].endswith("the text is gone.")
    assert lines[3].endswith("Slurm job 7_0: pending (Resources)")


def test_names_that_are_not_there_get_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="there are no runs in runs/"):
        main(["status"])
    folder = Path("runs/tiny/exact-12345678")
    run_once(folder, stand_in(folder, "fails"))
    main(["status", "tiny"])
    main(["log", "exact-12"])
    out = capsys.readouterr().out
    assert "1 runs: 1 failed" in out
    assert f"{folder}/logs/attempt-001.log:\nDataError: the text is gone." in out
    with pytest.raises(
        ConfigError, match="there is no study 'tny'(.|\n)*Try: python -m ligo.sweep status tiny"
    ):
        main(["status", "tny"])
    with pytest.raises(
        ConfigError,
        match="there is no run 'exct-12345678'(.|\n)*Try: python -m ligo.sweep log exact-12345678",
    ):
        main(["log", "exct-12345678"])
    with pytest.raises(ConfigError, match="log takes one run"):
        main(["log"])
    run_once(Path("runs/tiny/exact-12999999"), stand_in(Path("runs/tiny/exact-12999999")))
    with pytest.raises(ConfigError, match="the beginning of 2 runs"):
        find_run(Path("runs"), "exact-12")
