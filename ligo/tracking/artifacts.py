"""What one job of a run makes and another takes: the small model, the operator, the grown and the trained model.

A product is known by its content. It is named after the fingerprint of its files, so the model that one run ends with and
another begins with is one artifact in both, and W&B draws the line from the one to the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ligo.core.files import read_json
from ligo.core.run import Run

Fingerprint = Callable[[Path], str]
"""A model folder -> hex digits that tell it from others."""


@dataclass(frozen=True)
class Job:
    """A part of a run, which is a W&B run of its own."""

    takes: tuple[tuple[str, ...], ...] = ()
    """Roles; of several in one tuple, the first that there is."""
    makes: tuple[str, ...] = ()


JOBS = {
    "small": Job(makes=("small",)),
    "learn": Job(takes=(("small",),), makes=("operator",)),
    "grow": Job(takes=(("small",), ("operator",)), makes=("grown",)),
    "train": Job(takes=(("grown", "small"),), makes=("trained",)),
    "scratch": Job(),
    "short": Job(),
    "continue": Job(takes=(("small",),)),
    "tune": Job(takes=(("small",),), makes=("adapter", "trained")),
}
"""In the order in which they hand things on. Names are W&B's job types."""

_FILES = {
    "small": ("model", "small"),
    "operator": ("operator", "operator.safetensors"),
    "grown": ("model", "grown"),
    "trained": ("model", "trained"),
    "adapter": ("adapter", "adapter"),
}
"""By role: the type of artifact, and where in the run folder it lies."""


@dataclass(frozen=True)
class Product:
    """Something that a job made, or that was there before."""

    role: str
    type: str
    fingerprint: str
    path: Path | None
    """None: it was not made by this run, and lies elsewhere."""

    @property
    def name(self) -> str:
        return f"{self.type}-{self.fingerprint[:12]}"

    @property
    def reference(self) -> str:
        """What W&B keeps where files are not sent: equal for equal content, wherever it lies."""
        return f"ligo:{self.type}/{self.fingerprint}"

    @property
    def metadata(self) -> dict[str, Any]:
        files = [] if self.path is None else [self.path, *sorted(self.path.rglob("*"))]
        sizes = {file.name: file.stat().st_size for file in files if file.is_file()}
        # below the folder of the study: what is published names no place of a machine
        where = None if self.path is None else f"{self.path.parent.resolve().name}/{self.path.name}"
        return {"role": self.role, "fingerprint": self.fingerprint, "path": where, "bytes": sizes}


class Products:
    """What a run folder holds by now; files are whole once they are there, so each is read once."""

    def __init__(self, run: Run, fingerprint: Fingerprint) -> None:
        """
        Args:
            fingerprint: that of checkpoints, as in the run's manifest.
        """
        self._run, self._fingerprint = run, fingerprint
        self._found: dict[str, Product] = {}

    def find(self, role: str) -> Product | None:
        """The product in a role, if there is one yet."""
        if role not in self._found:
            kind, name = _FILES[role]
            path = self._run.folder / name
            digest = self._digest(role, path)
            if digest is None:
                return None
            self._found[role] = Product(role, kind, digest, path if path.exists() else None)
        return self._found[role]

    def first(self, roles: tuple[str, ...]) -> Product | None:
        """The first of several roles that there is a product in."""
        return next((product for role in roles if (product := self.find(role)) is not None), None)

    def _digest(self, role: str, path: Path) -> str | None:
        if role == "small":  # which may lie anywhere
            manifest = self._run.folder / "manifest.json"
            inputs = read_json(manifest).get("inputs", {}) if manifest.is_file() else {}
            return inputs.get("small")
        if role == "adapter":
            path = path / "adapter_model.safetensors"
        if path.is_file():
            with open(path, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        return self._fingerprint(path) if path.is_dir() else None
