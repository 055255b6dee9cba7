"""One run folder in, one record out: the summary, the plan and the loss curves, as they are.

Nothing is computed here that the run did not write down; what is missing or damaged is said in words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ligo.core.errors import DataError
from ligo.core.files import from_json, read_json
from ligo.core.redact import published

ARM_LABELS = {
    "grown": "grown",
    "scratch": "from scratch",
    "short": "from scratch, short schedule",
    "continue": "small model trained on",
    "small": "small model",
    "tune": "tuned",
    "learn": "learning the operator",
}


_COLUMNS = ("tokens", "flops", "wall_s", "eval/loss", "train/loss")
"""Of a record: numbers, where they are there."""


@dataclass(frozen=True)
class Curve:
    """One loss over the course of one arm; tokens, FLOPs and seconds are counted within the arm."""

    tokens: np.ndarray
    flops: np.ndarray
    wall_s: np.ndarray
    loss: np.ndarray

    def __len__(self) -> int:
        return len(self.loss)


@dataclass(frozen=True)
class Arm:
    """One line of the comparison, with the loss that it was judged by and the one it was trained on."""

    name: str
    label: str
    validation: Curve
    training: Curve


@dataclass(frozen=True)
class RunRecord:
    """Everything a report needs of one run."""

    folder: Path
    summary: Mapping[str, Any]
    plan: Mapping[str, Any]
    arms: Mapping[str, Arm]
    warnings: tuple[str, ...] = field(default=())

    @property
    def name(self) -> str:
        return str(self.summary.get("name") or self.folder.name)


def load_run(folder: Path) -> RunRecord:
    """Read a run folder. A last line of metrics.jsonl that was cut in the middle becomes a warning.

    Raises:
        DataError: the folder holds no finished run, or its summary cannot be read.
    """
    folder, warnings = Path(folder), list[str]()
    if not folder.is_dir():
        raise DataError(f"there is no run folder {folder}.\n  Try: python -m ligo.grow run.dir={folder}")
    if not (folder / "summary.json").exists():
        state = "is not finished" if (folder / "metrics.jsonl").exists() else "holds no run"
        raise DataError(
            f"{folder} {state}: summary.json is missing.\n"
            f"  It is written at the end of: python -m ligo.grow run.dir={folder}, or ligo.tune"
        )
    summary = _read_object(folder / "summary.json")
    plan: dict[str, Any] = {}
    if (folder / "plan.json").exists():
        plan = _read_object(folder / "plan.json")
    elif "tuning" not in summary:
        warnings.append("plan.json is missing: the growth plan is not shown.")
    with as_ligo_writes_them([folder]):
        labels = {arm.get("name"): arm.get("label") for arm in summary.get("arms") or ()}
        arms = read_arms(folder, labels, warnings)
    return RunRecord(folder, summary, plan, arms, tuple(warnings))


def check_different_names(runs: Sequence[RunRecord]) -> None:
    """Refuse runs that nobody could tell apart in a comparison.

    Raises:
        DataError: two runs have one name; both folders are named.
    """
    seen: dict[str, RunRecord] = {}
    for run in runs:
        twin = seen.setdefault(run.name, run)
        if twin is not run:
            raise DataError(
                f"{twin.folder} and {run.folder} are both named {run.name!r}: they could not be told apart.\n"
                "  Try: leave one out, or rename the folder and run its stage report again"
            )


@contextmanager
def as_ligo_writes_them(folders: Sequence[Path]) -> Iterator[None]:
    """In the block, what goes wrong with plain data is wrong in a file that somebody has changed.

    Raises:
        DataError: the files are named.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise DataError(
            f"summary.json or plan.json in {', '.join(map(str, folders))} is not as ligo writes it: {type(error).__name__}: {error}.\n"
            "  Try: the command of that run again, with stages=[report]; it is rewritten"
        ) from error


def read_arms(folder: Path, labels: Mapping[Any, Any], warnings: list[str]) -> dict[str, Arm]:
    """The arms in a run's metrics.jsonl; what cannot be read is added to `warnings`."""
    return {
        name: Arm(
            name,
            str(labels.get(name) or ARM_LABELS.get(name, name)),
            _curve(records, "eval/loss", name, warnings),
            _curve(records, "train/loss", name, warnings),
        )
        for name, records in _records_by_arm(folder / "metrics.jsonl", warnings).items()
    }


def made_of(folder: Path) -> dict[str, Any]:
    """When a run was made, on what hardware and with which versions, as its manifest.json says; None where it does not."""
    path = folder / "manifest.json"
    manifest = read_json(path) if path.exists() else {}
    return {key: manifest.get(key) for key in ("started", "hardware", "versions")}


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = from_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read: {error}.\n  Try: the command of that run again; it is rewritten"
        ) from error
    if not isinstance(value, dict):
        raise DataError(
            f"{path} holds a {type(value).__name__}, but a JSON object is expected.\n"
            "  Try: the command of that run again; it is rewritten"
        )
    return dict(published(value))


def _records_by_arm(path: Path, warnings: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Records in the order written, up to the first line that is not whole."""
    if not path.exists():
        warnings.append("metrics.jsonl is missing: there are no curves.")
        return {}
    arms: dict[str, list[dict[str, Any]]] = {}
    lines = path.read_text(encoding="utf-8", errors="replace").rstrip("\n").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = from_json(line)
            for name in _COLUMNS:
                float(record.get(name) or 0)
            arms.setdefault(str(record["arm"]), []).append(record)
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError):
            left_out = len(lines) - number
            more = f" and the {left_out} after it" if left_out else ", the last one,"
            warnings.append(f"metrics.jsonl: line {number}{more} cannot be read; the curves end before it.")
            break
    return arms


def _curve(records: list[dict[str, Any]], key: str, arm: str, warnings: list[str]) -> Curve:
    def column(name: str) -> np.ndarray:
        values = (record.get(name) for record in records if record.get(key) is not None)
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)

    loss = column(key)
    finite = np.isfinite(loss)
    if not finite.all():
        warnings.append(f"{arm}: {np.sum(~finite)} values of {key} are not finite and are not drawn.")
    tokens, flops, wall_s = (column(name)[finite] for name in ("tokens", "flops", "wall_s"))
    return Curve(tokens, flops, wall_s, loss[finite])
