"""Checkpoints that a later start goes on from: whole under their final name, verified before use.

Written aside, hashed, renamed: a folder `step-NNNNNNNN` is complete or not there, and a file that was cut or
changed by accident is found by its hash. DeepSpeed's engine state holds pickles: go on only in run folders of
your own, the manifest beside them is no signature.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

from ligo.core import distributed
from ligo.core.errors import disk_full
from ligo.core.files import read_json, write_json
from ligo.core.log import warn
from ligo.training.engine import Engine

_KEEP = 2


def save_checkpoint(engine: Engine, root: Path, state: dict[str, Any]) -> None:
    """Save engine and state as `root/step-NNNNNNNN`; every rank calls it.

    Args:
        state: plain data, with "step" and "config_hash" in it.

    Raises:
        ResourceError: the disk is full; the earlier checkpoints are untouched.
    """
    final = root / f"step-{state['step']:08d}"
    aside = root / f".{final.name}.tmp"
    try:
        if distributed.is_main():
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
        distributed.barrier()
        engine.save(aside)
        distributed.barrier()
        if distributed.is_main():
            files = {str(f.relative_to(aside)): _sha256(f) for f in sorted(aside.rglob("*")) if f.is_file()}
            write_json(
                aside / "manifest.json", {**state, "world_size": distributed.world_size(), "files": files}
            )
            shutil.rmtree(final, ignore_errors=True)
            os.rename(aside, final)
            for old in sorted(root.glob("step-*"))[:-_KEEP]:
                shutil.rmtree(old)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise disk_full(error, final) from error
    except RuntimeError as error:  # what torch.save raises on a full disk
        shutil.rmtree(aside, ignore_errors=True)
        if "write" not in str(error):
            raise
        raise disk_full(OSError(errno.ENOSPC, str(error)), final) from error
    distributed.barrier()


def load_latest(engine: Engine, root: Path, config_hash: str) -> dict[str, Any] | None:
    """Load the newest checkpoint that verifies; its state, or None when there is none."""
    for folder in sorted(root.glob("step-*"), reverse=True):
        problem = _problem(folder, config_hash)
        if problem is None:
            engine.load(folder)
            return dict(read_json(folder / "manifest.json"))
        warn(f"skipping checkpoint {folder.name}: {problem}")
    return None


def _problem(folder: Path, config_hash: str) -> str | None:
    """Why a checkpoint cannot be used, or None."""
    try:
        manifest = read_json(folder / "manifest.json")
    except (OSError, ValueError):
        return "its manifest is missing or cut"
    if manifest["config_hash"] != config_hash:
        return "it belongs to a run with another config"
    if manifest["world_size"] != distributed.world_size():
        return f"it was saved by {manifest['world_size']} rank(s), now there are {distributed.world_size()}"
    for name, digest in manifest["files"].items():
        file = folder / name
        if not file.is_file() or _sha256(file) != digest:
            return f"{name} is not what was saved"
    return None


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
