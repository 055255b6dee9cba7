"""What torchrun starts: the same learning under every ZeRO stage, the small model replicated and dealt out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ligo.core import distributed
from ligo.learning.config import LearnConfig
from ligo.operators.config import OperatorConfig
from tests.learning.test_learning import learn, plan_with

CASES = [
    (0, False, "fp32", "weights"),
    (0, True, "fp32", "layers"),
    (1, False, "fp32", "weights"),
    (1, True, "fp32", "weights"),
    (2, False, "fp32", "weights"),
    (2, True, "fp32", "layers"),
    (3, False, "fp32", "weights"),
    (2, True, "nf4", "weights"),
]
"""ZeRO stage, learn.shard_small, learn.small, learn.recompute"""


def curve(how: LearnConfig, stage: int = 0) -> dict[str, Any]:
    """Losses and costs of a few steps."""
    options = {"init": "stack", "steps": 4, "evaluate_every": 2}
    plan = plan_with(OperatorConfig(**options))
    learned, log = learn(plan, how, deepspeed={"zero_optimization": {"stage": stage}}, **options)
    losses = [record[key] for record in log for key in ("train/loss", "eval/loss") if key in record]
    return {
        "losses": [*losses, learned.start_loss, learned.best_loss],
        "norms": [record["grad_norm"] for record in log if "grad_norm" in record],
        "costs": [learned.flops, learned.recomputed_flops, learned.tokens],
    }


if __name__ == "__main__":
    found = [
        curve(LearnConfig(shard_small=shard, small=small, recompute=recompute), stage)
        for stage, shard, small, recompute in CASES
    ]
    if distributed.is_main():
        Path(sys.argv[1]).write_text(json.dumps(found))
    distributed.stop()
