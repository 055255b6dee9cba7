"""Options are composed once: the ranks read the file that the launcher left, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ligo.tune
from ligo.command import read_config
from ligo.config import compose
from ligo.core.errors import ConfigError
from ligo.launch import command, write_resolved
from ligo.options import compose_options
from tests.conftest import REPO

OPTIONS = ["small=tiny-llama", "target=tiny-llama-2x", "train.lr=0.001", "deepspeed=zero2"]


def test_the_file_gives_the_same_config_as_the_options(tmp_path: Path) -> None:
    options = [*OPTIONS, f"run.dir={tmp_path}"]
    program, path = write_resolved(options)
    assert (program, path.parent) == ("ligo.grow", tmp_path)
    assert read_config(["--config", str(path)]) == compose(options)


def test_tuning_is_launched_by_its_name(tmp_path: Path) -> None:
    options = ["small.path=DIR", "data.path=FILE", f"run.dir={tmp_path}"]
    program, path = write_resolved(["ligo.tune", *options])
    assert read_config(["--config", str(path)], ligo.tune.OPTIONS) == compose_options(
        options, ligo.tune.OPTIONS
    )
    made = command("torchrun", ["--nproc_per_node=2"], path, program)
    assert made[-4:] == ["-m", "ligo.tune", "--config", str(path)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read: No such file"),
        ("train: {lr: abc}", "holds no config(.|\n)*'abc'"),
        ("train: {lrr: 1}", "holds no config(.|\n)*lrr"),
        ("train: {lr: -1}", "train.lr=-1 must be above 0"),
        ("a: [", "holds no config"),
    ],
)
def test_a_file_that_is_no_config_is_refused(content: str | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=words):
        read_config(["--config", str(path)])


def test_options_beside_the_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="takes no others beside it"):
        read_config(["--config", str(tmp_path), "train.lr=1"])


def test_launchers_start_ranks_with_the_file() -> None:
    for name, own in (("torchrun", "--nproc_per_node=2"), ("deepspeed", "--num_gpus=2"), ("srun", "-n2")):
        made = command(name, [own], Path("FILE"))
        assert made[-2:] == ["--config", "FILE"]
        assert "ligo.grow" in made
        assert made.index(own) < made.index("ligo.grow")
    with pytest.raises(ConfigError, match="torchrum is no launcher(.|\n)*ligo.launch torchrun"):
        command("torchrum", [], Path("FILE"))


def test_a_real_launch_ends_with_its_launcher_and_holds_the_folder_until_then(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    environment |= {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    options = [*OPTIONS, f"run.dir={tmp_path}", "operator=exact", "stages=[write,train]", "tracking=jsonl",
               "train.max_tokens=1000000000"]  # fmt: skip
    launcher = subprocess.Popen(
        [sys.executable, "-m", "ligo.launch", "torchrun", "--standalone", "--nproc_per_node=2", "--", *options],
        cwd=REPO, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        metrics, deadline = tmp_path / "metrics.jsonl", time.monotonic() + 240
        while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
            assert launcher.poll() is None
            time.sleep(0.2)
        (torchrun,) = children(launcher.pid)
        ranks = children(torchrun)
        assert len(ranks) == 2
        second = subprocess.run(
            [sys.executable, "-m", "ligo.grow", *options],
            cwd=REPO,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert second.returncode == 4
        assert f"process {min(ranks)} on" in second.stderr or f"process {max(ranks)} on" in second.stderr
    finally:
        launcher.send_signal(signal.SIGKILL)
        launcher.wait()
    killed = time.monotonic()
    while any(Path(f"/proc/{rank}").exists() for rank in ranks) and time.monotonic() < killed + 20:
        time.sleep(0.05)
    assert time.monotonic() - killed < 10


@pytest.mark.parametrize(
    ("script", "code"), [("raise ConfigError('no')", 2), ("raise Interrupted('stop', 75)", 75), ("pass", 0)]
)
def test_the_exit_code_of_a_rank_is_that_of_the_launch(script: str, code: int, tmp_path: Path) -> None:
    # torchrun itself ends with 1 for anything that its ranks end with
    rank = tmp_path / "rank.py"
    rank.write_text(
        "from ligo.core.ending import ending\nfrom ligo.core.errors import ConfigError, Interrupted\n"
        f"with ending():\n    {script}\n"
    )
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(rank)]
    program = f"import sys\nfrom ligo.launch import supervise\nsys.exit(supervise({start!r}))"
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPO, env={**environment, "PYTHONPATH": str(REPO)},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == code


def test_a_launch_that_is_told_to_stop_tells_its_launcher(tmp_path: Path) -> None:
    stand_in = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(75)); print('ready', flush=True); time.sleep(60)"
    program = f"import sys\nfrom ligo.launch import supervise\nsys.exit(supervise([sys.executable, '-c', {stand_in!r}]))"
    for number in (signal.SIGTERM, signal.SIGUSR1):
        launch = subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=REPO,
            env={**os.environ, "PYTHONPATH": str(REPO)},
            stdout=subprocess.PIPE,
        )
        assert launch.stdout is not None
        assert launch.stdout.readline() == b"ready\n"
        launch.send_signal(number)
        assert launch.wait(timeout=30) == 75


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
