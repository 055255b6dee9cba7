"""The files of launch/ are read as their tools read them, and the command in each composes."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ligo.config import compose
from tests.conftest import REPO

LAUNCH = REPO / "launch"
SCRIPTS = sorted(path.relative_to(LAUNCH) for path in LAUNCH.rglob("*.sh"))


def options_of(words: list[str]) -> list[str]:
    """What is handed to ligo.grow in a command line."""
    last = "--" if "ligo.launch" in words else "ligo.grow"
    return words[words.index(last) + 1 :]


def load(name: str) -> Any:
    return yaml.safe_load((LAUNCH / name).read_text())


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_scripts_parse_and_can_be_started(script: Path) -> None:
    path = LAUNCH / script
    assert subprocess.run(["bash", "-n", path]).returncode == 0
    assert path.stat().st_mode & 0o111
    assert path.read_text().startswith("#!/usr/bin/env bash\n")


@pytest.mark.parametrize(
    ("script", "launcher", "words"),
    [
        ("local.sh", "python", "-m ligo.launch torchrun --standalone --nproc_per_node 2 --"),
        ("deepspeed.sh", "python", "-m ligo.launch deepspeed --hostfile launch/hostfile --"),
        ("slurm.sh", "python", "-m ligo.launch srun --kill-on-bad-exit=1 --"),
    ],
)
def test_scripts_hand_their_options_to_ligo_grow(
    script: str, launcher: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / launcher).write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')  # stands where the launcher would
    (tmp_path / launcher).chmod(0o755)
    given = ["+small=tiny-llama", "+target=custom", "small.path=a b", "target.hidden_size=128"]
    number = ["2"] if script == "local.sh" else []
    done = subprocess.run(
        [LAUNCH / script, *number, *given], capture_output=True, text=True, check=True,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
    )  # fmt: skip
    printed = done.stdout.splitlines()
    assert printed[: -len(given)] == words.split()
    config, _ = compose(options_of(printed))
    assert (config.small.path, config.target.hidden_size) == ("a b", 128)


def test_the_sbatch_script_has_directives_that_slurm_knows_and_warns_in_time() -> None:
    lines = (LAUNCH / "slurm.sh").read_text().splitlines()
    directives = dict(
        re.fullmatch(r"#SBATCH --([a-z-]+)(?:=(\S+))?", line).groups()  # type: ignore[union-attr]
        for line in lines
        if line.startswith("#SBATCH")
    )
    known = {
        "job-name",
        "nodes",
        "ntasks-per-node",
        "gpus-per-node",
        "cpus-per-task",
        "time",
        "signal",
        "requeue",
    }
    assert set(directives) <= known
    assert directives["ntasks-per-node"] == directives["gpus-per-node"]  # a process for each GPU
    name, seconds = directives["signal"].split("@")
    assert name == "USR1"  # ligo.grow saves a checkpoint at it; no B: prefix, so that srun's tasks get it
    assert int(seconds) >= 60
    assert "requeue" in directives
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first_command:])  # Slurm stops reading there


def test_the_hostfile_is_one_that_deepspeed_reads() -> None:
    if shutil.which("deepspeed") is None and not (REPO / ".venv/bin/deepspeed").exists():
        pytest.skip("deepspeed is not installed")
    from deepspeed.launcher.runner import fetch_hostfile

    assert fetch_hostfile(str(LAUNCH / "hostfile")) == {"localhost": 1}


def test_the_jobset_is_one_indexed_job_that_starts_again_whole() -> None:
    jobset = load("jobset.yaml")
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    name = jobset["metadata"]["name"]
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] > 0
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert job["completionMode"] == "Indexed"
    assert job["backoffLimit"] == 0  # a pod that fails fails the set: its ranks cannot go on without it
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    (container,) = pod["containers"]
    words = container["command"]
    flags = dict(word[2:].split("=", 1) for word in words if word.startswith("--"))
    assert int(flags["nnodes"]) == job["parallelism"] == job["completions"]
    assert int(flags["nproc_per_node"]) == container["resources"]["limits"]["nvidia.com/gpu"]
    # JobSet gives pod 0 of its first job this name in the service that is named like the set
    assert flags["master_addr"] == f"{name}-{replicated['name']}-0-0.{name}"
    assert int(flags["master_port"]) == container["ports"][0]["containerPort"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }
    config, _ = compose(options_of(words))
    assert (config.small.name, config.target.name) == ("llama-7b", "llama-13b")
    assert any(
        str(config.run.dir).startswith(mount["mountPath"] + "/") for mount in container["volumeMounts"]
    )


def test_the_skypilot_task_has_its_fields_and_runs_on_all_its_nodes() -> None:
    task = load("skypilot.yaml")
    assert set(task) <= {"name", "num_nodes", "resources", "workdir", "file_mounts", "setup", "run", "envs"}
    assert task["num_nodes"] == 2
    assert re.fullmatch(r"\w+:\d+", task["resources"]["accelerators"])
    for script in (task["setup"], task["run"]):
        assert subprocess.run(["bash", "-n", "-c", script]).returncode == 0
    words = shlex.split(task["run"].replace("\\\n", " "))
    for flag in (
        "--nnodes=$SKYPILOT_NUM_NODES",
        "--node_rank=$SKYPILOT_NODE_RANK",
        "--nproc_per_node=$SKYPILOT_NUM_GPUS_PER_NODE",
    ):
        assert flag in words
    config, _ = compose(options_of(words))
    assert (config.small.name, config.target.name) == ("llama-7b", "llama-13b")
    (mount,) = task["file_mounts"]
    assert str(config.run.dir).startswith(mount + "/")
