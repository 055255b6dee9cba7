"""A folder lets one process in at a time; one that is gone holds nobody up."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ligo.core.errors import CheckpointError
from ligo.core.lease import LEASE, lease
from tests.conftest import REPO

HOLD = "import sys, time; from pathlib import Path; from ligo.core.lease import lease\nwith lease(Path(sys.argv[1])):\n print('held', flush=True); time.sleep(60)"


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds `tmp_path`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], cwd=REPO, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_start_is_refused_and_told_who_holds_the_folder(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    words = f"process {holder.pid} on {socket.gethostname()}, since 20(.|\n)*run.dir=DIR"
    with pytest.raises(CheckpointError, match=words) as error, lease(tmp_path):
        pass
    assert error.value.exit_code == 4


def test_the_lease_of_a_killed_process_is_taken_over_with_a_word(
    holder: subprocess.Popen[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    holder.kill()
    holder.wait()
    with lease(tmp_path):
        assert json.loads((tmp_path / LEASE).read_text())["pid"] == os.getpid()
    assert f"process {holder.pid} on {socket.gethostname()} held" in capsys.readouterr().err
    with lease(tmp_path):
        pass
    assert not capsys.readouterr().err  # one that took leave is no surprise


def elsewhere(folder: Path) -> Path:
    file = folder / LEASE
    file.write_text(json.dumps({"pid": 7, "host": "elsewhere", "boot": "b", "since": "2026-01-01"}))
    return file


@pytest.mark.parametrize("clock", [-86400.0, 0.0, 86400.0])
def test_a_holder_on_another_machine_that_beats_is_refused_whatever_the_clocks_say(
    clock: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ligo.core.lease._GONE_AFTER_S", 3.0)
    file, ended = elsewhere(tmp_path), threading.Event()

    def beat() -> None:
        for beats in itertools.count():
            os.utime(file, (time.time() + clock + beats,) * 2)
            if ended.wait(0.2):
                return

    beating = threading.Thread(target=beat)
    beating.start()
    with pytest.raises(CheckpointError, match="process 7 on elsewhere, since 2026-01-01"), lease(tmp_path):
        pass
    ended.set()
    beating.join()


@pytest.mark.parametrize("clock", [-86400.0, 0.0, 86400.0])
def test_a_holder_on_another_machine_that_is_gone_holds_nobody_up_whatever_the_clocks_say(
    clock: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ligo.core.lease._GONE_AFTER_S", 0.2)
    file = elsewhere(tmp_path)
    os.utime(file, (time.time() + clock,) * 2)
    with lease(tmp_path):
        assert json.loads(file.read_text())["pid"] == os.getpid()
    assert "process 7 on elsewhere held" in capsys.readouterr().err


def test_a_clock_that_jumps_disturbs_no_holder(
    holder: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for clock in (0.0, 1e10):
        os.utime(tmp_path / LEASE, (clock, clock))
        monkeypatch.setattr(time, "time", lambda clock=clock: 1e9 - clock)
        with pytest.raises(CheckpointError, match=f"process {holder.pid} on"), lease(tmp_path):
            pass


def test_one_who_only_looks_whether_the_folder_is_held_does_not_hold_it(tmp_path: Path) -> None:
    with lease(tmp_path):
        pass
    with open(tmp_path / LEASE, "rb") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.1, lambda: fcntl.flock(looking, fcntl.LOCK_UN)).start()
        with lease(tmp_path):
            assert json.loads((tmp_path / LEASE).read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}'])
def test_a_lease_that_cannot_be_read_holds_nobody_up(content: str, tmp_path: Path) -> None:
    (tmp_path / LEASE).write_text(content)
    with lease(tmp_path):
        assert json.loads((tmp_path / LEASE).read_text())["pid"] == os.getpid()
    assert (tmp_path / LEASE).read_text() == ""
