"""Synthetic run folders: the files that a run leaves behind, with numbers made here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

RunMaker = Callable[..., Path]

OPERATOR_FLOPS, SMALL_FLOPS, GROWN_FLOPS, SCRATCH_FLOPS = 4.2e12, 2.1e13, 3.3e13, 9.9e13
TARGET = 3.2125


MODULES = [
    {
        "module": "embed_tokens",
        "small": {"rms": 0.05, "variance": 0.0025},
        "grown": {"rms": 0.0354, "variance": 0.00125},
    },
    {
        "module": "self_attn.q_proj",
        "small": {"rms": 0.11, "variance": 0.0121},
        "grown": {"rms": 0.055, "variance": 0.003},
    },
    {
        "module": "input_layernorm",
        "small": {"rms": 1.0, "variance": 0.01},
        "grown": {"rms": 1.0, "variance": 0.01},
    },
    {"module": "router", "small": None, "grown": {"rms": 0.02, "variance": 0.0004}},
]


def metric_lines(points: int = 60) -> list[dict[str, Any]]:
    """Losses that fall as a power law: scratch, grown, the operator, the small model."""
    arms = {
        "small": (9.0, 3.9, SMALL_FLOPS, 40.0),
        "learn": (4.3, 3.95, OPERATOR_FLOPS, 12.0),
        "grown": (3.95, 3.05, 8e13, 150.0),
        "scratch": (9.1, TARGET, SCRATCH_FLOPS, 200.0),
    }
    noise = np.random.default_rng(0)
    lines = []
    for arm, (start, end, flops, wall_s) in arms.items():
        for step, part in enumerate(np.linspace(0, 1, points)):
            loss = end + (start - end) * (1 - part) / (1 + 12 * part)
            at = {"arm": arm, "step": 10 * step, "tokens": int(5e6 * part)}
            at |= {"flops": flops * part, "wall_s": wall_s * part, "lr": 1e-3, "grad_norm": 1.0}
            lines.append(at | {"train/loss": loss + 0.08 * noise.normal()})
            if step % 3 == 0 or part == 1:
                lines.append(at | {"eval/loss": loss})
    return lines


def summary_of(name: str) -> dict[str, Any]:
    """A run that reached V*; the savings follow from their parts."""

    def saving(convention: str, small: float) -> dict[str, Any]:
        parts = {"small_flops": small, "operator_flops": OPERATOR_FLOPS, "grown_flops": GROWN_FLOPS}
        share = 1 - sum(parts.values()) / SCRATCH_FLOPS
        return {"convention": convention, **parts, "scratch_flops": SCRATCH_FLOPS, "saving": share}

    def arm(name: str, label: str, loss: float, flops: float, wall_s: float, rate: float) -> dict[str, Any]:
        spent = {"tokens": 5_000_000, "flops": flops, "wall_s": wall_s, "peak_lr": rate}
        return {"name": name, "label": label, "final_loss": loss, **spent}

    return {
        "name": name,
        "command": "python -m ligo.grow small=stories target=double operator=ligo",
        "date": "2026-11-24",
        "versions": {"ligo": "0.1.0", "torch": "2.13.0"},
        "hardware": "2 CPU cores",
        "small": {
            "name": "stories",
            "parameters": 412_000,
            "train_flops": SMALL_FLOPS,
            "train_tokens": 8_000_000,
            "loss": 3.9,
        },
        "target": {"name": "double", "parameters": 1_730_000, "hidden_size": 128, "num_layers": 4},
        "growth": {
            "operator": "ligo",
            "start": "exact",
            "exact": True,
            "verdict": "the start computes the same function",
            "max_logit_difference": 7.15e-6,
            "loss_at_start": 3.9502,
            "loss_after_learning": 3.9101,
            "operator_flops": OPERATOR_FLOPS,
            "operator_parameters": 53_248,
            "modules": MODULES,
        },
        "arms": [
            arm("grown", "grown (ligo)", 3.0513, 8e13, 150.0, 5e-4),
            arm("scratch", "from scratch", 3.2125, SCRATCH_FLOPS, 200.0, 1e-3),
        ],
        "target_loss": {"value": TARGET, "of": "scratch"},
        "savings": [saving("small model sunk", 0), saving("small model charged", SMALL_FLOPS)],
        "equal_tokens": {"tokens": 5_000_000, "losses": {"grown": 3.0514, "scratch": 3.2126}},
        "equal_flops": {"flops": 8e13, "losses": {"grown": 3.0515, "scratch": 3.2987}},
        "not_measured": ["the small model trained on at equal total FLOPs"],
        "notes": ["one seed"],
    }


PLAN: dict[str, Any] = {
    "small": {"hidden_size": 64, "num_hidden_layers": 3, "vocab_size": 4096},
    "target": {"hidden_size": 128, "num_hidden_layers": 4, "vocab_size": 4096},
    "operator": "ligo",
    "spaces": [
        {
            "space": "residual",
            "small": 64,
            "target": 128,
            "ratio": 2.0,
            "map": "start + rank 16",
            "exact": True,
        },
        {"space": "ffn", "small": 172, "target": 344, "ratio": 2.0, "map": "selection", "exact": True},
    ],
    "layers": {"map": [[0], [1], [1, 2], [2]], "description": "3 layers to 4, learned mix"},
    "exactness": {"exact": True, "verdict": "the start computes the same function"},
    "parameters": {"small": 412_000, "target": 1_730_000},
    "flops_per_token": {"small": 2.6e6, "target": 1.1e7},
}


@pytest.fixture
def make_run(tmp_path: Path) -> RunMaker:
    """`make_run(name, change=..., arms=..., tail=...)` writes a run folder and gives its path."""

    def make(
        name: str = "demo",
        change: Callable[[dict[str, Any]], object] = lambda summary: None,
        arms: tuple[str, ...] = ("small", "learn", "grown", "scratch"),
        tail: str = "",
    ) -> Path:
        folder = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        summary = summary_of(name)
        change(summary)
        lines = [json.dumps(line) for line in metric_lines() if line["arm"] in arms]
        (folder / "summary.json").write_text(json.dumps(summary))
        (folder / "plan.json").write_text(json.dumps(PLAN))
        (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n" + tail)
        return folder

    return make
