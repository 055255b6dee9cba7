"""The run directory: the contract between commands.

config.yaml manifest.json     resolved config; command line, git state, versions, hardware, seed
plan.json operator.safetensors grown/ trained/
moments.safetensors new_coordinates.safetensors
checkpoints/<arm>/step-00001000/
adapter/                      what was tuned beside a checkpoint, as a PEFT folder; merged into it: trained/
growth-1/ growth-2/           growths inside the run: the same files each, and small/, which they began with
metrics.jsonl summary.json energy.json report.html wandb/
stages.json STATUS LEASE      what is done, with its results; running | done | interrupted | failed: reason; who is at work
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
import traceback
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from ligo.core.ending import explain
from ligo.core.errors import ConfigError, Interrupted, LigoError
from ligo.core.files import read_object, write_json, write_text
from ligo.core.lease import lease
from ligo.core.redact import redact

_VERSIONS_OF = (
    "ligo", "torch", "transformers", "deepspeed", "peft", "bitsandbytes", "safetensors", "tokenizers", "wandb", "numpy",
)  # fmt: skip

_INDECISIVE = ("run", "output", "plan", "stages", "merge", "tracking", "hardware")
_INDECISIVE_KEYS = {"data": ("cache_dir",), "train": ("save_every", "keep_last", "keep_every", "export")}


def config_hash(config: dict[str, Any]) -> str:
    """Eight hex digits of everything that decides the numbers.

    Where the run lies, who watches it and which of its stages are done now do not, so that a later start
    may ask for other stages in the same folder.
    """
    decisive = {key: value for key, value in config.items() if key not in _INDECISIVE}
    for group, keys in _INDECISIVE_KEYS.items():
        if isinstance(decisive.get(group), dict):
            decisive[group] = {k: v for k, v in decisive[group].items() if k not in keys}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Run:
    """One execution, in one folder. Only rank 0 writes."""

    folder: Path

    def __post_init__(self) -> None:
        """
        Raises:
            ConfigError: its name, or that of its study, is a secret.
        """
        for name in (self.folder.name, self.folder.parent.name):
            if redact(name) != name:
                raise ConfigError(
                    f"a run folder would be named by a secret: {redact(name)}.\n  Try: another run.dir=DIR"
                )

    @property
    def plan(self) -> Path:
        return self.folder / "plan.json"

    @property
    def tokenizer(self) -> Path:
        """What the text is read with; absent where there is none."""
        return self.folder / "tokenizer"

    @property
    def operator(self) -> Path:
        return self.folder / "operator.safetensors"

    @property
    def grown(self) -> Path:
        return self.folder / "grown"

    @property
    def trained(self) -> Path:
        return self.folder / "trained"

    @property
    def moments(self) -> Path:
        """Adam's moments to begin training the grown model with."""
        return self.folder / "moments.safetensors"

    @property
    def new_coordinates(self) -> Path:
        """Which places of the grown model's tensors are new."""
        return self.folder / "new_coordinates.safetensors"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        return self.folder / "summary.json"

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    @property
    def id(self) -> str:
        """Drawn when the folder was begun; its checkpoints carry it, and those of other runs are not loaded."""
        return str(read_object(self.folder / "manifest.json").get("run_id", ""))

    def checkpoints(self, arm: str) -> Path:
        return self.folder / "checkpoints" / arm

    def open(self, config: dict[str, Any], config_yaml: str, seed: int) -> None:
        """Create the folder, or go on in it if it holds the same config.

        Raises:
            ConfigError: the folder holds a run with another config.
            ResourceError: the folder cannot be written.
        """
        manifest = self.folder / "manifest.json"
        wanted = config_hash(config)
        if manifest.exists():
            there = read_object(manifest).get("config_hash")
            if there != wanted:
                raise ConfigError(
                    f"{self.folder} holds a run with another config ({there}, now {wanted}); "
                    "going on would mix two runs.\n  Try: another run.dir=DIR, or remove that folder"
                )
        else:
            write_json(manifest, {"config_hash": wanted, **_manifest(seed)})
        write_text(self.folder / "config.yaml", config_yaml)
        self.set_status("running")

    def check_same_inputs(self, fingerprints: dict[str, str]) -> None:
        """Remember the fingerprints of checkpoint and text; refuse to go on with others.

        Raises:
            ConfigError: the folder was begun with another checkpoint or text under the same name.
        """
        manifest = read_object(self.folder / "manifest.json")
        for what, now in fingerprints.items():
            if manifest.get("inputs", fingerprints)[what] != now:
                raise ConfigError(
                    f"the {what} is no longer the one that {self.folder} was begun with (same name, other "
                    "content); going on would mix two runs.\n  Try: another run.dir=DIR"
                )
        write_json(self.folder / "manifest.json", {**manifest, "inputs": fingerprints})

    def set_status(self, status: str) -> None:
        write_text(self.folder / "STATUS", status + "\n")

    def held(self) -> AbstractContextManager[None]:
        """Keep other processes out of the folder for the length of a block (rank 0).

        Raises:
            CheckpointError: one is at work there.
        """
        return lease(self.folder)

    @contextmanager
    def keeping_status(self) -> Iterator[None]:
        """Leave done, interrupted or failed in STATUS, whatever happens in the block (rank 0)."""
        try:
            yield
        except BaseException as error:
            told = explain(error)
            stopped, reason = isinstance(told, Interrupted), str(told).splitlines()[0]
            with suppress(LigoError):  # the disk may be what is full
                self.set_status("interrupted" if stopped else f"failed: {reason}")
                if not isinstance(error, (LigoError, KeyboardInterrupt)):
                    self._keep_traceback(error)
            raise
        self.set_status("done")

    def _keep_traceback(self, error: BaseException) -> None:
        """Users are told in words; what nobody foresaw may have come after days, and is not thrown away."""
        path = self.folder / "logs" / "traceback.txt"
        write_text(path, "".join(traceback.format_exception(error)))
        error.add_note(f"The traceback is in {path}.")

    def stage_results(self) -> dict[str, Any]:
        """Finished stages and what each found."""
        path = self.folder / "stages.json"
        return read_object(path) if path.exists() else {}

    def finish_stage(self, stage: str, result: dict[str, Any]) -> None:
        write_json(self.folder / "stages.json", {**self.stage_results(), stage: result})


def versions() -> dict[str, str]:
    """Versions of the packages whose numbers matter, those that are installed."""
    found = {"python": platform.python_version()}
    for package in _VERSIONS_OF:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> str:
    """One line: '2 CPU cores (x86_64)', GPUs included when torch is already loaded."""
    line = f"{os.cpu_count()} CPU cores ({platform.machine()})"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        line = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}, {line}"
    return line


def command_line() -> str:
    """The command as typed, `python -m ligo.grow ...`, without the folder that Python lies in."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    program = f"python -m {spec.name}" if spec else Path(sys.argv[0]).name
    return f"{program.removesuffix('.__main__')} {shlex.join(sys.argv[1:])}".strip()


def _manifest(seed: int) -> dict[str, Any]:
    return {
        "run_id": uuid.uuid4().hex,
        "command": command_line(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "versions": versions(),
        "hardware": hardware(),
        "git": _git_state(),
    }


def _git_state() -> dict[str, Any]:
    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    status = git("status", "--porcelain")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}
