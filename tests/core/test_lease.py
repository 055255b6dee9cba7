"""A folder lets one process in at a time; one that is gone holds nobody up."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
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


def test_a_holder_on_another_machine_is_told_from_one_that_is_gone_by_its_heartbeat(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / LEASE
    file.write_text(json.dumps({"pid": 7, "host": "elsewhere", "boot": "b", "since": "2026-01-01"}))
    with pytest.raises(CheckpointError, match="process 7 on elsewhere, since 2026-01-01"), lease(tmp_path):
        pass
    os.utime(file, (time.time() - 300,) * 2)
    with lease(tmp_path):
        pass
    assert "(last seen 300 s ago); taking over" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}'])
def test_a_lease_that_cannot_be_read_holds_nobody_up(content: str, tmp_path: Path) -> None:
    (tmp_path / LEASE).write_text(content)
    with lease(tmp_path):
        assert json.loads((tmp_path / LEASE).read_text())["pid"] == os.getpid()
    assert (tmp_path / LEASE).read_text() == ""
