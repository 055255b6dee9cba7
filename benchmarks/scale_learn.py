"""What a step of learning takes at the size of LLaMA-33B -> 65B, on models of 1/64 of their parameters: widths, sizes
of heads and the vocabulary are an eighth, heads and layers as many. Layers stay mixed as the start mixes them (`operator.depth_lr=0`).

    python -m benchmarks.scale_learn

Every step runs in a process of its own. Its peak is VmHWM less that of a process that has only imported the same
libraries; the small model is read from a checkpoint on the disk. glibc gives blocks above 32 MiB back to the system when
they are freed, as all matrices of the full size are; here, where they are a 64th, it is told 512 KiB. Seconds are
process CPU seconds of one thread.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import REPO, finish, peak_resident_bytes, row
from ligo.checkpoint.reader import Checkpoint
from ligo.checkpoint.shards import lay_out, write_shards
from ligo.config import GrowConfig, SmallConfig, TargetConfig, compose
from ligo.core.files import write_json
from ligo.costs import costs
from ligo.data.config import DataConfig
from ligo.families.stock import expected_shapes, skeleton
from ligo.growth.plan import GrowthPlan, plan_growth
from ligo.learning.config import LearnConfig, learn_shape
from ligo.learning.cost import choose_forward
from ligo.learning.engine import OperatorLoss, make_operator_engine
from ligo.learning.forward import GrownFunction
from ligo.learning.functional import LearnedMaps
from ligo.learning.store import bitsandbytes_functions, open_store
from ligo.operators.config import OperatorConfig, build
from ligo.plan import make_plan
from ligo.training.objectives import make_objective

SMALL = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 832, "num_hidden_layers": 60,
    "num_attention_heads": 52, "num_key_value_heads": 52, "head_dim": 16, "intermediate_size": 2240, "vocab_size": 4000,
    "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "max_position_embeddings": 2048, "initializer_range": 0.02,
    "dtype": "bfloat16",
}  # fmt: skip
TARGET = {"hidden_size": 1024, "num_layers": 80, "num_heads": 64, "num_kv_heads": 64, "ffn_size": 2752}
LENGTH, WINDOWS = 128, 1
SCALE = 64


def scaled_plan(num_small: int, num_target: int, depth_lr: float) -> tuple[GrowthPlan, OperatorConfig]:
    config = OperatorConfig(name="ligo", init="exact", batch_tokens=WINDOWS * LENGTH, depth_lr=depth_lr)
    small, target = {**SMALL, "num_hidden_layers": num_small}, {**TARGET, "num_layers": num_target}
    return plan_growth(small, target, build(config)), config


def synthetic(folder: Path, plan: GrowthPlan) -> None:
    """A small checkpoint of random weights in bfloat16: one block of random numbers for all, which is fast."""
    shapes = expected_shapes(plan.small)
    numbers = max(map(math.prod, shapes.values()))
    block = (torch.randn(numbers, generator=torch.Generator().manual_seed(0)) * 0.02).to(torch.bfloat16)

    def pieces(names: Sequence[str]) -> Iterator[Tensor]:
        for name in names:
            yield block[: math.prod(shapes[name])]

    write_shards(folder, lay_out(shapes, "BF16", 10**9), pieces, folder / "record.json")
    (folder / "record.json").unlink()
    write_json(folder / "config.json", plan.small.config)


def one_step(folder: Path, how: str, num_target: int, depth_lr: float, steps: int) -> dict[str, float]:
    """Hold the small model, take some steps; what `apart` starts. Without steps: the libraries alone."""
    if how == "nf4":
        bitsandbytes_functions()
    skeleton(scaled_plan(1, 2, 0.0)[0].target)  # transformers, accelerate
    if not steps:
        return {"peak_bytes": peak_resident_bytes()}
    started = time.process_time()
    checkpoint = Checkpoint.open(folder)
    plan, operator = scaled_plan(checkpoint.config["num_hidden_layers"], num_target, depth_lr)
    config, device = LearnConfig(small=how, recompute="layers"), torch.device("cpu")
    learned = LearnedMaps(plan, operator)
    store = open_store(config, plan.small, checkpoint.named_for(plan.small).read, device)
    loss = OperatorLoss(
        learned, GrownFunction(plan, recompute=config.recompute), store.read, make_objective(plan.target),
        device=device, bf16=False,
    )  # fmt: skip
    shape = learn_shape(config, operator.batch_tokens, LENGTH, 1)
    engine = make_operator_engine(loss, learned.parameter_groups(operator), shape, {})
    chosen = choose_forward(
        plan, learned(), tokens=operator.batch_tokens, sequence_length=LENGTH, wanted="auto"
    )
    ready, seconds = time.process_time(), []
    windows = np.random.default_rng(0).integers(0, SMALL["vocab_size"], (WINDOWS, LENGTH + 1))
    for _ in range(steps):
        begun = time.process_time()
        engine.step(windows, 1.0, chosen.outside)
        seconds.append(time.process_time() - begun)
    return {
        "peak_bytes": peak_resident_bytes(), "reading_cpu_s": ready - started, "step_cpu_s": min(seconds),
        "small_parameters": plan.small.num_parameters, "target_parameters": plan.target.num_parameters,
        "learned_parameters": sum(p.numel() for p in learned.parameters()), "flops": chosen.step.training,
    }  # fmt: skip


def apart(folder: Path, how: str, num_target: int, depth_lr: float, steps: int) -> dict[str, float]:
    command = [
        sys.executable, "-m", "benchmarks.scale_learn", str(folder), how, str(num_target), str(depth_lr), str(steps),
    ]  # fmt: skip
    threshold = str(2**25 // SCALE)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": threshold}
    done = subprocess.run(command, cwd=REPO, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def learning_rows() -> tuple[dict[str, Any], dict[str, Any]]:
    """Peak memory and time of a step with the small model in NF4."""
    folder = Path(tempfile.mkdtemp(prefix="ligo-learn-", dir=os.environ.get("LIGO_BENCH_DIR")))
    try:
        plan, operator = scaled_plan(SMALL["num_hidden_layers"], TARGET["num_layers"], 0.0)
        synthetic(folder, plan)
        libraries = apart(folder, "nf4", TARGET["num_layers"], 0.0, 0)["peak_bytes"]
        nf4 = apart(folder, "nf4", TARGET["num_layers"], 0.0, 1)
    finally:
        shutil.rmtree(folder)
    held, planned = nf4["peak_bytes"] - libraries, planned_bytes(operator)
    off = planned / held - 1
    whole = planned_whole_bytes()
    return {
        "learn, LLaMA-33B -> 65B at 1/64, NF4: planned / measured peak - 1": row(
            off, "within 0.10", abs(off) <= 0.1
        ),
        "learn, LLaMA-33B -> 65B, NF4: planned peak bytes": row(whole, "< 48e9", whole < 48e9),
        "learn, LLaMA-33B -> 65B, NF4: peak bytes on one GPU": row(None, "< 48e9", None),
        "learn, LLaMA-7B -> 13B: share of one GPU's measured bf16 matmul rate": row(None, ">= 0.40", None),
        "learn, LLaMA-7B -> 13B: planned / measured peak on one GPU - 1": row(None, "within 0.10", None),
    }, {
        "libraries_bytes": libraries, "planned_bytes": planned, "tokens": WINDOWS * LENGTH, "recompute": "layers",
        "whole": WHOLE, "nf4": nf4,
    }  # fmt: skip


def planned_bytes(operator: OperatorConfig) -> float:
    """What the plan says that the step takes, without libraries."""
    target = TargetConfig(
        hidden_size=1024, num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=64, intermediate_size=2752
    )  # fmt: skip
    config = GrowConfig(
        small=SmallConfig(name="small", model=dict(SMALL)),
        target=target,
        operator=operator,
        learn=LearnConfig(small="nf4", recompute="layers"),
        data=DataConfig(sequence_length=LENGTH, validation_tokens=LENGTH * WINDOWS),
        stages=["learn"],
    )
    memory = costs(config, make_plan(config, SMALL)).stages["learn"].memory
    return float(memory.peak - memory.libraries)


WHOLE = [
    "small=llama-33b", "target=65b", "hardware=a100", "stages=[learn,write]", "learn.small=nf4", "learn.precision=bf16",
    "learn.recompute=layers", "operator.form=new_rows",
]  # fmt: skip


def planned_whole_bytes() -> float:
    """What the plan says of the full size, libraries included."""
    config, _ = compose(WHOLE)
    plan = make_plan(config, dict(config.small.model))
    return float(costs(config, plan).stages["learn"].memory.peak)


def main() -> None:
    if len(sys.argv) > 1:
        folder, how, num_target, depth_lr, steps = sys.argv[1:]
        print(json.dumps(one_step(Path(folder), how, int(num_target), float(depth_lr), int(steps))))
        return
    finish("scale_learn", *learning_rows())


if __name__ == "__main__":
    main()
