"""Runs as array jobs of Slurm, through submitit: submitted, found again in its queue, requeued, several ranks to a run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ligo.core import distributed
from ligo.core.errors import EXIT_PREEMPTED, ConfigError, ResourceError, require
from ligo.core.files import write_text
from ligo.sweeps.attempt import LOGS, record_end, run_once
from ligo.sweeps.status import is_finished
from ligo.sweeps.submit import ClusterConfig, Job, Placed

_OURS = {
    "nodes": "cluster.nodes",
    "ntasks_per_node": "cluster.processes",
    "array_parallelism": "cluster.workers",
}


def check(cluster: ClusterConfig) -> None:
    """Refuse Slurm where there is none, and keys of submitit that follow from our own.

    Raises:
        ConfigError: what is missing, and what works instead.
    """
    if shutil.which("sbatch") is None:
        raise ConfigError(
            "cluster=slurm needs Slurm's sbatch, which is not on the PATH of this machine; cluster=local works here.\n"
            "  Try: cluster=local, or the same command on a login node"
        )
    _submitit()
    answer = subprocess.run(["sinfo", "--noheader"], capture_output=True, text=True)
    if answer.returncode:
        reason = answer.stderr.strip().splitlines()[-1:] or ["no answer"]
        raise ConfigError(
            f"cluster=slurm: sbatch is here, but Slurm does not answer ({reason[0]}); cluster=local works here.\n"
            "  Try: cluster=local, or SLURM_CONF=FILE if the configuration lies elsewhere"
        )
    for key, ours in _OURS.items():
        if key in cluster.slurm:
            raise ConfigError(f"cluster.slurm.{key} follows from {ours}.\n  Try: {ours}={cluster.slurm[key]}")


class SlurmLauncher:
    """Array jobs. They outlive the sweep: a later one finds them in Slurm's queue by the name of their run."""

    def __init__(self, cluster: ClusterConfig, study: Path) -> None:
        self._cluster, self._study = cluster, study
        self._last: dict[str, Placed] | None = None

    def submit(self, jobs: Sequence[Job]) -> None:
        if not jobs:
            return
        submitit = _submitit()
        cluster = self._cluster
        executor = submitit.SlurmExecutor(self._study / ".submitit", max_num_timeout=cluster.max_restarts)
        executor.update_parameters(
            **{
                "job_name": self._study.name,
                "stderr_to_stdout": True,
                "srun_args": ["--kill-on-bad-exit=1"],  # ranks wait for each other for ever otherwise
                **cluster.slurm,
                "nodes": cluster.nodes,
                "ntasks_per_node": cluster.processes,
                "array_parallelism": cluster.workers,
            }
        )
        submitted = executor.map_array(SlurmTask(), jobs)
        for job, slurm_job in zip(jobs, submitted, strict=True):
            write_text(job.folder / LOGS / "slurm", slurm_job.job_id + "\n")

    def placed(self) -> dict[str, Placed]:
        """As last known, where squeue does not answer for a while."""
        try:
            self._last = slurm_placed(self._study)
        except ResourceError:
            if self._last is None:
                raise
        return self._last

    def stop(self, signal_number: int) -> None:
        """Nothing: Slurm's jobs go on without the sweep (scancel ends them)."""


def _submitit() -> ModuleType:
    """submitit, told to have Slurm warn with USR1, at which ligo.grow saves a checkpoint; it reads that when imported."""
    os.environ["SUBMITIT_PREEMPT_SIGNAL"] = "USR1"
    return require("submitit", extra="slurm", why="cluster=slurm")


_ENDED = (
    "COMPLETED",
    "FAILED",
    "TIMEOUT",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "BOOT_FAIL",
    "DEADLINE",
    "PREEMPTED",
)


def slurm_placed(study: Path) -> dict[str, Placed]:
    """What Slurm says of the runs of a study that it has, or had until a few minutes ago.

    Raises:
        ResourceError: squeue does not answer.
    """
    ids = {file.read_text().strip(): file.parent.parent.name for file in study.glob(f"*/{LOGS}/slurm")}
    if not ids or shutil.which("squeue") is None:
        return {}
    answer = subprocess.run(
        ["squeue", "--noheader", "--array", "--me", "--states=all", "--format=%i|%T|%r"],
        capture_output=True, text=True,
    )  # fmt: skip
    if answer.returncode:
        raise ResourceError(
            f"squeue does not answer, so it is not known which runs of {study.name} are in the queue: "
            f"{answer.stderr.strip() or f'exit code {answer.returncode}'}\n  Try: the same command again in a while"
        )
    placed = {}
    for job, state, reason in (line.split("|") for line in answer.stdout.splitlines()):
        if job not in ids or state in _ENDED:
            continue
        why = f"Slurm job {job}: {state.lower()}" + (f" ({reason})" if reason not in ("None", "") else "")
        placed[ids[job]] = Placed("interrupted" if state == "CANCELLED" else "queued", why)
    return placed


class SlurmTask:
    """What each task of a Slurm job does; submitit starts it on every task through srun.

    Task 0 holds the run's lock and records the attempt; all tasks run the same command, as ranks of one run. Before a
    time limit submitit requeues the job; where Slurm preempts, it does so itself, or the sweep submits the run again.
    """

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None

    def __call__(self, job: Job) -> int | None:
        if is_finished(job.folder, job.stages):
            return None
        distributed.adopt_launcher_variables()  # the run is a child, which is to find torch's own variables
        rank = distributed.rank()
        code = self._follow(job, rank) if rank else self._lead(job)
        if code not in (0, EXIT_PREEMPTED, None):
            sys.exit(abs(code))
        return code

    def _lead(self, job: Job) -> int | None:
        code = run_once(
            job.folder,
            job.command,
            where=os.environ["SLURM_JOB_ID"],
            is_finished=lambda: is_finished(job.folder, job.stages),
            on_start=self._keep,
        )
        if code is None and distributed.world_size() > 1:
            raise RuntimeError(
                f"{job.folder} is finished, or another job is at it: the other tasks need not wait"
            )
        return code

    def _follow(self, job: Job, rank: int) -> int:
        (job.folder / LOGS).mkdir(parents=True, exist_ok=True)
        with open(job.folder / LOGS / f"rank-{rank}.log", "ab") as log:
            self._child = subprocess.Popen(job.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        return self._child.wait()

    def _keep(self, child: subprocess.Popen[bytes]) -> None:
        self._child = child

    def checkpoint(self, job: Job) -> Any:
        """submitit calls this before it requeues, at Slurm's warning: the run saves a checkpoint and ends."""
        import submitit

        if self._child is not None:  # it got the signal too, as every process of a Slurm job does
            _, ended = os.waitpid(self._child.pid, 0)  # not wait(): this interrupts one that holds its lock
            record_end(job.folder, os.waitstatus_to_exitcode(ended))
            self._child = None
        return submitit.helpers.DelayedSubmission(self, job)
