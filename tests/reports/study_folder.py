"""A study folder as ligo.sweep leaves it, with round numbers: 100 tokens, 1e9 FLOPs and a second from one evaluation to the next."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SCRATCH = (6.0, 5.0, 4.0, 3.5, 3.0)
STAGE_OF = {"grown": "train", "scratch": "scratch", "continue": "continue", "short": "short"}
LEARNING = {"flops": 4e8, "tokens": 10, "wall_s": 0.5}
BUILD_FLOPS = 1e8
SMALL = {"flops": 1e9, "tokens": 400}


def add_run(
    study: Path, arm: str, seed: int, losses: Sequence[float], *, trains: str = "grown", rate: float | None = None,
    text: str | None = "abc", name: str | None = None, accuracy: float | None = None,
) -> Path:  # fmt: skip
    """Write a finished run, and enter it in study.json."""
    folder = study / (name or f"{arm}-{seed}")
    folder.mkdir(parents=True)
    lines = [
        {"arm": trains, "step": i, "tokens": 100 * i, "flops": 1e9 * i, "wall_s": float(i), "eval/loss": loss}
        for i, loss in enumerate(losses)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    last = lines[-1]
    result = {
        "loss": losses[-1],
        "accuracy": accuracy,
        "small_training": SMALL,
        **{k: last[k] for k in ("tokens", "flops", "wall_s")},
    }
    results: dict[str, Any] = {STAGE_OF[trains]: result}
    if trains == "grown":
        results |= {"learn": LEARNING, "write": {"build_flops": BUILD_FLOPS}}
    (folder / "stages.json").write_text(json.dumps(results))
    if text is not None:
        (folder / "manifest.json").write_text(json.dumps({"inputs": {"small": "s", "text": text}}))
        (folder / "config.yaml").write_text("data: {sequence_length: 32, validation_tokens: 1024}\n")
    enter(study, folder.name, arm, seed, rate, list(results))
    return folder


def enter(study: Path, name: str, arm: str, seed: int, rate: float | None, stages: list[str]) -> None:
    path = study / "study.json"
    there = (
        json.loads(path.read_text())
        if path.exists()
        else {"name": study.name, "question": "Which is best?", "runs": {}}
    )
    there["runs"][name] = {
        "arm": arm,
        "size": "",
        "seed": seed,
        "rate": rate,
        "stages": stages,
        "options": [],
    }
    path.write_text(json.dumps(there))
