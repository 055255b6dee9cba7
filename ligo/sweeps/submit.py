"""Where runs are tried: as processes on this machine, or as array jobs of Slurm (submitit)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, Protocol

from ligo.core.checks import check_between
from ligo.core.errors import ConfigError, nearest
from ligo.sweeps.attempt import run_once
from ligo.sweeps.status import is_finished

LAUNCHERS = ("local", "slurm")


@dataclass(kw_only=True)
class ClusterConfig:
    """Where the runs of a sweep are tried, and how many at a time."""

    name: str = "local"
    """local or slurm."""
    workers: int = 1
    """Runs at a time."""
    processes: int = 1
    """Processes of one run on each node; on machines with GPUs, one for each that the run gets."""
    nodes: int = 1
    """Nodes of one run (slurm)."""
    command: list[str] = field(default_factory=list)
    """What a run is started with, its options appended; for containers and wrappers. Empty: this Python, -m ligo.grow."""
    max_restarts: int = 10
    """How often a run that was preempted is started again."""
    slurm: dict[str, Any] = field(default_factory=dict)
    """submitit's own keys for Slurm (time in minutes, partition, gpus_per_node, ...), passed through as they are."""


@dataclass(frozen=True)
class Job:
    """One run to be tried: where it lies, what it takes to be finished, and its options."""

    folder: Path
    stages: tuple[str, ...]
    command: tuple[str, ...]


class Placed(NamedTuple):
    """What a launcher knows of a run that its folder does not tell."""

    state: str
    """queued: its turn comes, or it is being tried; interrupted: somebody cancelled it there."""
    why: str = ""


class Launcher(Protocol):
    """Tries runs; what became of them is read from their folders."""

    def submit(self, jobs: Sequence[Job]) -> None:
        """Have these tried, each once."""

    def placed(self) -> dict[str, Placed]:
        """What the launcher itself knows, by name of run."""

    def stop(self, signal_number: int) -> None:
        """Ask the runs to save a checkpoint and end, and wait for them, where they end with the sweep."""


def check(cluster: ClusterConfig) -> None:
    """Refuse what this machine cannot do.

    Raises:
        ConfigError: an unknown launcher, no Slurm, more GPUs than there are, or a number that cannot be.
    """
    if cluster.name not in LAUNCHERS:
        raise ConfigError(
            f"cluster={cluster.name} is not one of {', '.join(LAUNCHERS)}.\n"
            f"  Try: cluster={nearest(cluster.name, LAUNCHERS) or 'local'}"
        )
    for key in ("workers", "processes", "nodes"):
        check_between(f"cluster.{key}", getattr(cluster, key), 1)
    check_between("cluster.max_restarts", cluster.max_restarts, 0)
    if cluster.name == "slurm":
        return  # slurm.check
    if cluster.nodes > 1:
        raise ConfigError(
            f"cluster.nodes={cluster.nodes} needs a launcher that knows other machines.\n  Try: cluster=slurm"
        )
    gpus, wanted = _num_gpus(), cluster.workers * cluster.processes
    if gpus and wanted > gpus:
        raise ConfigError(
            f"cluster.workers={cluster.workers} x cluster.processes={cluster.processes} takes {wanted} GPUs, and this "
            f"machine has {gpus}.\n  Try: cluster.workers={max(1, gpus // cluster.processes)}"
        )


def run_command(cluster: ClusterConfig, options: Sequence[str]) -> tuple[str, ...]:
    """The command line of one run (of one of its processes, under Slurm)."""
    start = cluster.command or [sys.executable, "-m", "ligo.grow"]
    if cluster.name == "local" and cluster.processes > 1 and not cluster.command:
        torchrun = [
            "torch.distributed.run",
            "--standalone",
            f"--nproc_per_node={cluster.processes}",
            "-m",
            "ligo.grow",
        ]
        start = [sys.executable, "-m", *torchrun]
    return (*start, *options)


# --- this machine ---------------------------------------------------------------------------------------


class LocalLauncher:
    """Processes on this machine, `workers` at a time; cores are shared out, and GPUs where there are any."""

    def __init__(self, workers: int, processes: int = 1) -> None:
        self._threads = ThreadPoolExecutor(workers)
        self._free = list(range(workers))  # places; each has its own GPUs
        self._workers, self._processes = workers, processes
        self._jobs: dict[str, Future[int | None]] = {}
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._stop_signal: int | None = None
        self._signalling = (
            Lock()
        )  # a child gets the signal once: a second one would end it without a checkpoint

    def submit(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self._jobs[job.folder.name] = self._threads.submit(self._try, job)

    def placed(self) -> dict[str, Placed]:
        for future in self._jobs.values():
            if future.done():
                future.result()  # what went wrong here, not in the run, is to be seen
        return {name: Placed("queued") for name, future in self._jobs.items() if not future.done()}

    def stop(self, signal_number: int) -> None:
        with self._signalling:
            self._stop_signal = signal_number
            for child in self._children.values():
                child.send_signal(signal_number)
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _try(self, job: Job) -> int | None:
        if self._stop_signal is not None:
            return None
        place = self._free.pop()
        try:
            return run_once(
                job.folder,
                job.command,
                environment=self._environment(place),
                is_finished=lambda: is_finished(job.folder, job.stages),
                on_start=lambda child: self._keep(job.folder.name, child),
            )
        finally:
            with self._signalling:
                self._children.pop(job.folder.name, None)
            self._free.append(place)

    def _keep(self, name: str, child: subprocess.Popen[bytes]) -> None:
        with self._signalling:
            self._children[name] = child
            if self._stop_signal is not None:  # it came while this one was being started
                child.send_signal(self._stop_signal)

    def _environment(self, place: int) -> dict[str, str]:
        share = max(1, (os.cpu_count() or 1) // (self._workers * self._processes))
        environment = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(share)}
        if _num_gpus():
            mine = range(place * self._processes, (place + 1) * self._processes)
            visible = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(visible[i] if visible else str(i) for i in mine)
        return environment


def _num_gpus() -> int:
    """GPUs that this process may use; asks the system, because importing torch takes seconds."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([gpu for gpu in visible.split(",") if gpu.strip() not in ("", "-1")])
    return len(list(Path("/dev").glob("nvidia[0-9]*")))
