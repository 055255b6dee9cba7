"""The doctor on one process, on two nodes, with a rank that does not come and one that hangs; what it gives away: nothing."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ligo.preflight import machine
from ligo.preflight.finding import Finding, redact
from ligo.preflight.ranks import slow_ranks
from tests.conftest import REPO

RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def doctor(folder: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    for name in RANK_VARIABLES:
        environment.pop(name, None)
    return subprocess.Popen(
        [sys.executable, "-m", "ligo.doctor", *arguments],
        cwd=folder, env=environment | variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def as_rank(rank: int, world_size: int, port: int, node: int) -> dict[str, str]:
    return {
        "RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": str(world_size), "GROUP_RANK": str(node),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip


def test_one_process_looks_at_its_machine_and_gives_nothing_away(tmp_path: Path) -> None:
    secret = "hf_" + "q" * 20
    done = doctor(tmp_path, HF_TOKEN=secret, MY_API_KEY="correct-horse-battery")
    out, _ = done.communicate(timeout=120)
    assert done.returncode == 0, out
    for topic in ("versions", "cpu", "gpu", "deepspeed", "port", "disk", "ranks"):
        assert re.search(rf"^{topic} ", out, re.MULTILINE), topic
    assert "one process: no pairs of nodes to try" in out
    block = out.split("```")[1]
    assert "torch" in block
    for word in (secret, "correct-horse-battery", str(tmp_path), str(Path.home()), sys.prefix):
        assert word not in block
    assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", block)
    assert not list((tmp_path / "runs").iterdir())  # nothing is left where runs are to lie


def test_a_disk_that_cannot_be_written_ends_with_5(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = doctor(tmp_path, "file/runs")
    out, _ = done.communicate(timeout=120)
    assert done.returncode == 5, out
    assert "failed: file/runs cannot be written as runs are" in out


def test_two_nodes_are_tried_as_a_pair(tmp_path: Path) -> None:
    port = free_port()
    first, second = (doctor(tmp_path, "--timeout", "60", **as_rank(rank, 2, port, rank)) for rank in (0, 1))
    out, _ = first.communicate(timeout=120)
    assert first.returncode == 0, out
    assert second.wait(timeout=60) == 0, second.communicate()
    assert "2 ranks on 2 node(s) came" in out
    assert "all ranks see what rank 0 writes" in out
    assert re.search(r"clocks +agree to 0\.\d+ s", out)
    assert re.search(r"1 pair\(s\) of nodes, the slowest node 0 and node 1: \d+ MiB/s", out)


def test_ranks_that_do_not_come_are_named(tmp_path: Path) -> None:
    alone = doctor(tmp_path, "--timeout", "1", **as_rank(0, 3, free_port(), 0))
    out, _ = alone.communicate(timeout=120)
    assert alone.returncode == 2, out
    assert "failed: rank 1, 2 did not come within 1 s" in out


def test_a_rank_that_finds_no_rank_0_says_so(tmp_path: Path) -> None:
    lost = doctor(tmp_path, "--timeout", "1", **as_rank(1, 2, free_port(), 1))
    out, _ = lost.communicate(timeout=120)
    assert lost.returncode == 2, out
    assert "rank 1 cannot reach rank 0 at MASTER_ADDR within 1 s" in out
    assert "Traceback" not in out


def test_a_rank_that_hangs_in_the_middle_is_named(tmp_path: Path) -> None:
    port = free_port()
    first = doctor(tmp_path, "--timeout", "5", **as_rank(0, 2, port, 0))
    second = doctor(tmp_path, "--timeout", "5", **as_rank(1, 2, port, 1))
    assert first.stdout is not None
    seen = ""
    while "ranks on 2 node(s) came" not in seen:
        line = first.stdout.readline()
        assert line, seen
        seen += line
    os.kill(second.pid, signal.SIGSTOP)
    try:
        rest, _ = first.communicate(timeout=120)
    finally:
        second.kill()
        second.communicate()
    # it may have come through some checks before the signal, but never to the end
    if first.returncode:
        assert first.returncode == 2
        assert re.search(r"failed: rank 1 (did not|does not|wrote)", rest)
    else:
        pytest.skip("the rank was through before it could be stopped")


def test_slow_ranks_are_those_above_twice_the_median() -> None:
    assert slow_ranks({0: 1.0, 1: 1.1, 2: 0.9, 3: 3.0}) == {3: pytest.approx(3.0 / 1.05)}
    assert slow_ranks({0: 1.0, 1: 1.9}) == {}


def test_a_compile_that_was_killed_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    (tmp_path / "cpu_adam").mkdir()
    lock = tmp_path / "cpu_adam" / "lock"
    lock.touch()
    assert machine.stale_locks() == []  # somebody may be compiling just now
    os.utime(lock, (time.time() - 3600,) * 2)
    assert machine.stale_locks() == [lock]
    (finding,) = [found for found in machine.deepspeed_ops() if found.level == "failed"]
    assert finding.exit_code == 2
    assert f"Try: rm {lock}" in str(finding)


def test_little_disk_is_a_warning_and_a_taken_port_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**20))
    assert [found.level for found in machine.disks(tmp_path)] == ["ok", "warning", "warning", "warning"]
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        monkeypatch.setenv("MASTER_PORT", str(taken.getsockname()[1]))
        monkeypatch.setenv("RANK", "0")
        found = machine.port()
    assert (found.level, found.exit_code) == ("failed", 2)
    assert "Address already in use" in found.found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see /home/ann/x/y.log, ~/z", "see <path>, <path>"),
        ("at 12.5 MiB/s, loss/step", "at 12.5 MiB/s, loss/step"),
        ("10.0.0.7:29500", "<address>:29500"),
        ("hf_abcdefgh1234 and " + "0f" * 20, "<secret> and <secret>"),
        ("key horse-battery here", "key <secret> here"),
        ("from node17.cluster or node17, not node170", "from <host> or <host>, not node170"),
    ],
)
def test_what_stays_at_home(text: str, expected: str) -> None:
    environment = {"WANDB_API_KEY": "horse-battery", "MASTER_ADDR": "node17.cluster"}
    assert redact(text, environment) == expected


def test_a_finding_reads_as_one_line_and_what_to_type() -> None:
    assert str(Finding("ok", "port", "fine")) == "port        fine"
    assert (
        str(Finding("failed", "port", "taken", "another"))
        == "port        failed: taken\n            Try: another"
    )
