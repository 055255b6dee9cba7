"""Checkpoints that a later start goes on from: whole under their final name, verified before use.

A checkpoint is made in a hidden folder beside its place: every rank's part of the engine's state, then a manifest
with the size and SHA-256 of every file and of itself. All of it is on the disk before the folder gets its name, and
`latest` is written after that. So a kill at any instant leaves the checkpoint before it or this one, and a changed
byte anywhere is found before the first step. The manifest names run and config: state of another run is not read.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ligo.core import distributed
from ligo.core.errors import CheckpointError, ResourceError, disk_full
from ligo.core.files import from_json, write_json, write_text
from ligo.core.log import warn
from ligo.training.engine import Engine
from ligo.training.export import EXPORTED, export_checkpoint

MANIFEST, LATEST = "manifest.json", "latest"


def save_checkpoint(
    engine: Engine, root: Path, state: dict[str, Any], *, keep_last: int = 2, keep_every: int = 0,
    export: bool = False,
) -> None:  # fmt: skip
    """Save engine and state as `root/step-NNNNNNNN`, and remove older ones; every rank calls it.

    Args:
        state: plain data, with "step", "config_hash" and "run_id" in it.
        keep_last: how many of the newest stay.
        keep_every: those of steps that this divides stay as well; 0 for none.
        export: put the model beside the state, as a stock Hugging Face folder `model/`.

    Raises:
        ResourceError: the disk is full on any rank; the earlier checkpoints are untouched.
    """
    final = root / f"step-{state['step']:08d}"
    aside = root / f".{final.name}.tmp"
    written: dict[str, str] = {}
    with _raised_everywhere(final, aside):
        if distributed.is_main():
            _remove_leftovers(root)
            aside.mkdir(parents=True)
    with _raised_everywhere(final, aside):
        written = engine.save(aside)
    digests = distributed.gather_text(json.dumps(written))
    with _raised_everywhere(final, aside):
        if distributed.is_main():
            write_json(aside / "config.json", engine.objective.family.config)
            if export:
                export_checkpoint(aside, aside / EXPORTED)
            hashed = {name: sha for text in digests for name, sha in json.loads(text).items()}
            _write_manifest(aside, state, hashed)
            _publish(aside, final)
            _remove_old(root, state["step"], keep_last, keep_every)


def load_latest(
    engine: Engine, root: Path, config_hash: str, run_id: str = "", *, before: float = math.inf
) -> dict[str, Any] | None:
    """Load the newest checkpoint that verifies; its state, or None when there is none at all.

    Args:
        before: only those of earlier steps.

    Raises:
        CheckpointError: there are checkpoints, and none of them can be used.
    """
    skipped = []
    for folder in reversed(checkpoints(root)):
        if step_of(folder) >= before:
            continue
        problem = find_problem(folder, config_hash, run_id)
        if problem is None:
            engine.load(folder)
            return read_manifest(folder)
        warn(f"skipping checkpoint {folder.name}: {problem}")
        skipped.append(folder.name)
    if skipped and before == math.inf:
        raise CheckpointError(
            f"none of the checkpoints in {root} can be used: {', '.join(skipped)}.\n"
            "  Try: remove that folder to begin again"
        )
    return None


def checkpoints(root: Path) -> list[Path]:
    """The published checkpoints, oldest first."""
    return sorted(root.glob(f"step-{'[0-9]' * 8}"))


def step_of(folder: Path) -> int:
    """The optimiser steps after which a checkpoint was saved."""
    return int(folder.name.removeprefix("step-"))


def discard_after(root: Path, step: int) -> None:
    """Remove the checkpoints of later steps: they are no longer part of the run. Every rank calls it."""
    with distributed.others_wait() as alone:
        if alone:
            for folder in checkpoints(root):
                if step_of(folder) > step:
                    _remove(folder)


def remove_finished(root: Path, keep_every: int) -> None:
    """Remove what an arm that is done needed for going on; those kept for good, and those with an export, stay."""
    kept = []
    for folder in checkpoints(root):
        for_good = keep_every and step_of(folder) % keep_every == 0
        if for_good or (folder / EXPORTED).is_dir():
            kept.append(folder.name)
        else:
            _remove(folder)
    if kept:
        write_text(root / LATEST, kept[-1] + "\n")
    else:
        shutil.rmtree(root, ignore_errors=True)


def find_problem(folder: Path, config_hash: str, run_id: str = "") -> str | None:
    """Why a checkpoint cannot be used, or None. Ranks share the reading and agree; every rank calls it."""
    try:
        manifest = read_manifest(folder)
    except (OSError, ValueError, KeyError):
        manifest = None
    if distributed.max_over_ranks(float(manifest is None)):
        return f"{MANIFEST} is missing, cut or changed"
    assert manifest is not None
    if manifest["config_hash"] != config_hash:
        return "it belongs to a run with another config"
    if manifest["run_id"] != run_id:
        return "it belongs to another run"
    files = list(manifest["files"].items())
    bad = 0  # number of a file that is not what was saved, counted from 1
    for number in range(distributed.rank(), len(files), distributed.world_size()):
        name, expected = files[number]
        if not _is_what_was_saved(folder / name, expected):
            bad = number + 1
            break
    bad = int(distributed.max_over_ranks(float(bad)))
    return f"{files[bad - 1][0]} is not what was saved" if bad else None


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint.

    Raises:
        OSError: there is none.
        ValueError: a byte of it is not as it was written.
        KeyError: it is no manifest.
    """
    content = (folder / MANIFEST).read_bytes()
    try:
        manifest = dict(from_json(content))
    except TypeError as error:
        raise ValueError(f"{folder / MANIFEST} is no manifest") from error
    if manifest.pop("sha256") != _sha256_of(manifest) or content != _encoded(manifest):
        raise ValueError(f"{folder / MANIFEST} was changed")
    return manifest


# --- writing -------------------------------------------------------------------------------------------------


@contextmanager
def _raised_everywhere(final: Path, aside: Path) -> Iterator[None]:
    """Raise on every rank where the disk failed on any; and wait for each other."""
    problem: ResourceError | None = None
    try:
        yield
    except OSError as error:
        problem = ResourceError(str(disk_full(error, final)))
    except ResourceError as error:
        problem = error
    if distributed.max_over_ranks(float(problem is not None)):
        if distributed.is_main():
            shutil.rmtree(aside, ignore_errors=True)
        raise problem or ResourceError(
            f"another rank could not write its part of {final}; nothing was left there under its final name.\n"
            "  Its own message says why"
        )


def _write_manifest(aside: Path, state: dict[str, Any], hashed: dict[str, str]) -> None:
    """The last file of a checkpoint: sizes and hashes of all others, and its own."""
    files = {}
    for file in sorted(f for f in aside.rglob("*") if f.is_file()):
        name = str(file.relative_to(aside))
        files[name] = {"bytes": file.stat().st_size, "sha256": hashed.get(name) or _sha256(file)}
        if name not in hashed:
            _sync(file)  # ranks have theirs on the disk
    manifest = {**state, "world_size": distributed.world_size(), "files": files}
    write_text(aside / MANIFEST, _encoded(manifest).decode())


def _publish(aside: Path, final: Path) -> None:
    for folder in (*(f for f in aside.rglob("*") if f.is_dir()), aside):
        _sync(folder)
    if final.exists():
        _remove(final)
    os.rename(aside, final)
    _sync(final.parent)
    write_text(final.parent / LATEST, final.name + "\n")
    _sync(final.parent)


def _remove_old(root: Path, step: int, keep_last: int, keep_every: int) -> None:
    """Remove what need not be kept; what seems to come from the future is not counted."""
    for folder in [f for f in checkpoints(root) if step_of(f) <= step][:-keep_last]:
        if not keep_every or step_of(folder) % keep_every:
            _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a checkpoint so that no half of it is ever there under its name."""
    gone = folder.with_name(f".{folder.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    os.rename(folder, gone)
    shutil.rmtree(gone)


def _remove_leftovers(root: Path) -> None:
    """What a kill left: checkpoints begun, and those half removed."""
    for left in root.glob(".step-*"):
        shutil.rmtree(left)


def _sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --- checking ------------------------------------------------------------------------------------------------


def _encoded(manifest: dict[str, Any]) -> bytes:
    """The one way in which a manifest is written, so that every byte of it can be checked."""
    return (json.dumps({**manifest, "sha256": _sha256_of(manifest)}, indent=1) + "\n").encode()


def _sha256_of(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest).encode()).hexdigest()


def _is_what_was_saved(file: Path, expected: dict[str, Any]) -> bool:
    try:
        return file.stat().st_size == expected["bytes"] and _sha256(file) == expected["sha256"]
    except OSError:
        return False


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
