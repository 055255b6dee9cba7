"""Options are composed once: the ranks read the file that the launcher left, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ligo.command import read_config
from ligo.config import compose
from ligo.core.errors import ConfigError
from ligo.launch import command, write_resolved
from tests.conftest import REPO

OPTIONS = ["small=tiny-llama", "target=tiny-llama-2x", "train.lr=0.001", "deepspeed=zero2"]


def test_the_file_gives_the_same_config_as_the_options(tmp_path: Path) -> None:
    config, text = compose([*OPTIONS, f"run.dir={tmp_path}"])
    path = write_resolved(config, text)
    assert path.parent == tmp_path
    assert read_config(["--config", str(path)]) == (config, text)


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
        ranks = children(launcher.pid)
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


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
