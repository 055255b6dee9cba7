"""Disks that are full or may not be written, memory that is not there, Ctrl-C: in every command.

Small disks are mounted, so this runs in namespaces of its own (see `tests.faults.trust`).
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ligo.tracking.jsonl import MEASURED, read_records
from tests.faults.commands import QUIET, complaint, log_of, newest, run, small_checkpoint
from tests.faults.tally import Tally

DISK_BYTES = 64 * 2**20


# --- disks --------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, options: str = f"size={DISK_BYTES}") -> Iterator[Path]:
    """A disk of its own, in memory."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, left: int) -> Path:
    """Leave so many bytes on a disk."""
    ballast = disk / "ballast"
    free = shutil.disk_usage(disk).free
    with open(ballast, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free - left))
    return ballast


def contents(folder: Path) -> dict[str, str]:
    """The checksum of every file, but for those that say who is at work and how it ended."""
    changing = {
        "STATUS",
        "LEASE",
        "config.yaml",
        "plan.json",
    }  # the last two follow from the stages asked for
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name not in changing
    }


def losses(folder: Path) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in record.items() if key not in MEASURED}
        for record in read_records(folder / "metrics.jsonl")
    ]


def fills(tally: Tally, trials: int) -> None:
    """The disk is full after a part of what training writes: exit 5, what was grown before is whole, the same start goes on."""
    small = (*small_checkpoint(), *QUIET)
    whole = tally.folder / "whole"
    stages = ("stages=[write]", "stages=[write,train]")
    before = 0
    for stage in stages:
        before, needed = used(whole) if whole.exists() else 0, before
        if code := run("grow", (*small, stage, f"run.dir={whole}"), tally.folder):
            raise RuntimeError(f"exit code {code}: {log_of(tally.folder, 'grow').read_text()[-2000:]}")
    needed = used(whole) - before
    for trial in range(trials):
        with small_disk(tally.folder / f"disk-{trial}") as disk:
            place = tally.folder / f"fill-{trial}"
            place.mkdir()
            folder = disk / "run"
            first = run("grow", (*small, stages[0], f"run.dir={folder}"), place)
            there = contents(folder)
            left = needed * (2 * trial + 1) // (2 * trials)
            ballast = fill(disk, left)
            log_of(place, "grow").unlink()
            full = run("grow", (*small, stages[1], f"run.dir={folder}"), place)
            words, now = complaint(place, "grow"), contents(folder)
            changed = [name for name, digest in there.items() if now.get(name) != digest]
            ballast.unlink()
            again = run("grow", (*small, stages[1], f"run.dir={folder}"), place)
            same = losses(folder) == losses(whole)
            tally.count(
                (first, full, again) == (0, 5, 0) and words is None and not changed and same,
                f"{left} of {needed} bytes left: {first, full, again}, changed {changed}, same {same}, {words}",
            )


def used(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


# --- every command in every kind of trouble -----------------------------------------------------------------


def endings(tally: Tally, trials: int) -> None:
    """Commands on a full and on a read-only disk, without memory, and stopped by Ctrl-C: words, a documented code, and
    once the trouble is over the same command ends well. There are 42 such pairs; fewer trials are some of these."""
    from tests.instruction.recording import write_recording
    from tests.reports.study_folder import SCRATCH, add_run

    small = (*small_checkpoint(), *QUIET)
    recording = write_recording(tally.folder / "completions.jsonl", 8)
    records = [{"instruction": f"Say {i}.", "input": "", "output": f"{i} {i}"} for i in range(64)]
    (tally.folder / "say.json").write_text(json.dumps(records))
    whole = tally.folder / "whole"
    if run("grow", (*small, "stages=[write,train,report]", f"run.dir={whole}"), tally.folder):
        raise RuntimeError(log_of(tally.folder, "grow").read_text()[-2000:])

    def study(disk: Path) -> None:
        for arm in ("exact", "scratch"):
            add_run(disk / "study", arm, 0, SCRATCH, trains="scratch" if arm == "scratch" else "grown")

    def finished(disk: Path) -> None:
        shutil.copytree(whole, disk / "run")

    commands: dict[str, tuple[str, Callable[[Path], tuple[str, ...]], Callable[[Path], None]]] = {
        "grow": ("grow", lambda d: (*small, "stages=[write,train]", f"run.dir={d / 'new'}"), lambda d: None),
        "plan": ("plan", lambda d: (*small, "hardware=none"), lambda d: None),
        "tune": (
            "tune",
            lambda d: (
                f"small.path={whole / 'grown'}", f"data.path={tally.folder / 'say.json'}", f"run.dir={d / 'new'}",
                "train.engine=torch", "train.batch_size=8", "train.steps=2", "data.max_length=400", "tracking=jsonl",
            ),
            lambda d: None,
        ),
        "report": ("report", lambda d: (str(d / "run"),), finished),
        "study": ("report", lambda d: (str(d / "study"),), study),
        "sync": ("sync", lambda d: (str(d / "run"),), finished),
        "export": ("export", lambda d: (str(newest(whole)), str(d / "exported")), lambda d: None),
        "instruct": ("instruct", lambda d: ("teacher=replay", f"teacher.path={recording}", f"run.dir={d / 'new'}", "count=2"), lambda d: None),
        "doctor": ("doctor", lambda d: (str(d / "runs"),), lambda d: None),
        "launch": ("launch", lambda d: ("srun", "--", *small, "stages=[write]", f"run.dir={d / 'new'}"), lambda d: None),
        "sweep": ("sweep", lambda d: (*small, "stages=[write]", "study.name=swept", "seed=0", "operator=exact"), lambda d: None),
    }  # fmt: skip
    pairs = [(name, trouble) for name in commands for trouble in TROUBLES if (name, trouble) not in HARMLESS]
    for name, trouble in random.Random(0).sample(pairs, min(trials, len(pairs))):
        command, arguments, prepare = commands[name]
        with small_disk(tally.folder / f"{name}-{trouble.replace(' ', '-')}") as disk:
            prepare(disk)
            place = disk if command == "sweep" else tally.folder / f"at-{name}-{trouble}".replace(" ", "-")
            place.mkdir(exist_ok=True)
            log = log_of(place, command)
            if command == "sweep":  # runs lie where it is started, and so would its log
                log.symlink_to(tally.folder / f"sweep-{trouble}.log".replace(" ", "-"))
            with TROUBLES[trouble](disk) as first:
                bad = run(command, arguments(disk), place, first=first)
            undisturbed = {1, 2} if name == "launch" else {0}  # there is no cluster here
            if trouble == "Ctrl-C" and bad in undisturbed:  # it had ended before: nothing was provoked
                tally.count(True, "")
                continue
            words, said = complaint(place, command) if bad > 0 else None, log.read_text()
            tally.notes[trouble] = tally.notes.get(trouble, 0) + (bad != 0)
            log.write_text("")
            good = run(command, arguments(disk), place)
            tally.count(
                bad in TROUBLE_CODES[trouble] and words is None and good in undisturbed,
                f"{name}, {trouble}: {bad} then {good}: {words or said[-1000:]} {log.read_text()[-1000:]}",
            )


@contextmanager
def full(disk: Path) -> Iterator[Callable[[], None]]:
    ballast = fill(disk, 0)
    yield lambda: None
    ballast.unlink()


@contextmanager
def read_only(disk: Path) -> Iterator[Callable[[], None]]:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    yield lambda: None
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)


@contextmanager
def stopped(disk: Path) -> Iterator[Callable[[], None]]:
    def soon() -> None:
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
        signal.setitimer(signal.ITIMER_REAL, 0.05)

    yield soon


@contextmanager
def no_memory(disk: Path) -> Iterator[Callable[[], None]]:
    def limit() -> None:
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + 2**20, now + 2**20))

    yield limit


TROUBLES = {"full disk": full, "read-only disk": read_only, "Ctrl-C": stopped, "no memory": no_memory}
TROUBLE_CODES = {"full disk": {5}, "read-only disk": {5}, "Ctrl-C": {130}, "no memory": {0, 5, -6}}
"""Some need no more memory than there is, and libraries in Rust abort where there is none."""
HARMLESS: set[tuple[str, str]] = {("plan", "full disk"), ("plan", "read-only disk")}
"""It writes nothing."""
