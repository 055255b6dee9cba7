"""Tiny fine-tuning runs: data that a tiny model can learn, and the command as a function."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from ligo.evaluate import OPTIONS, evaluate
from ligo.options import compose_options
from ligo.tracking.jsonl import MEASURED, read_records
from tests.conftest import REPO

BERT, VIT, LLAMA = (REPO / "ligo" / "zoo" / name for name in ("tiny-bert", "tiny-vit", "tiny-llama"))
_SUBJECTS = ("king", "house", "river", "light", "bread", "stone", "water", "tree")


def sentences(folder: Path, train: int = 64, dev: int = 32) -> Path:
    """A folder like SST-2's: what is good is 1, what is evil 0."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, count, first in (("train", train, 0), ("dev", dev, 3)):
        lines = [
            f"the {_SUBJECTS[(first + number) % 8]} is {'good' if number % 2 else 'evil'} and {'great' * (number % 3)}\t{number % 2}"
            for number in range(count)
        ]
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def copied(folder: Path, source: Path, **config: Any) -> Path:
    """A checkpoint with other keys in its config.json."""
    shutil.copytree(source, folder)
    there = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**there, **config}))
    return folder


def run(folder: Path, evaluation: str, models: dict[str, Path], *more: str) -> dict[str, Any]:
    """`python -m ligo.evaluate` in this process; what evaluation.json says."""
    paths = [f"models.{name}.path={path}" for name, path in models.items()]
    evaluate(*compose_options([f"evaluation={evaluation}", *paths, f"run.dir={folder}", *more], OPTIONS))
    return dict(json.loads((folder / "evaluation.json").read_text()))


def value(found: dict[str, Any], metric: str, model: str = "small") -> float:
    """The one row of a metric."""
    (row,) = [row for row in found["rows"] if row["metric"] == metric and row["model"] == model]
    return float(row["value"])


def records(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what two equal runs differ in."""
    return [
        {key: value for key, value in record.items() if key not in MEASURED}
        for record in read_records(folder / "metrics.jsonl")
    ]
