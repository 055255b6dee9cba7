"""What a plan predicts against what is measured: memory, FLOPs and time of training, learning and writing.

Memory is the peak of a fresh process beyond what it held when its libraries were loaded and their kernels had been used
(VmHWM; a child begins at its own, unlike ru_maxrss). Models have some 50 M parameters, so that tensors outweigh all else. glibc
would keep freed pieces below its growing threshold, which hides what is held at once: the children are started with
MALLOC_MMAP_THRESHOLD_=65536 and one arena. Time is the fastest of several steps, the probe beside it, so that both see
the same load. Figures go to benchmarks/results/plan.json.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import REPO, finish, row
from ligo.accounting.hardware import Work
from ligo.accounting.probe import Shape, measure
from ligo.config import GrowConfig, SmallConfig, TargetConfig
from ligo.costs import costs
from ligo.data.sources import DataConfig
from ligo.growth.plan import GrowthPlan
from ligo.learning.config import LearnConfig
from ligo.operators.config import OperatorConfig
from ligo.operators.noise_level import NoiseLevel
from ligo.plan import make_plan
from ligo.training.config import TrainConfig

LENGTH, WINDOWS = 256, 2
SMALL = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 8192, "hidden_size": 512,
    "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 1408,
    "max_position_embeddings": 512, "tie_word_embeddings": False, "pad_token_id": None,
}  # fmt: skip
TARGET = TargetConfig(
    hidden_size=768,
    num_hidden_layers=6,
    num_attention_heads=12,
    num_key_value_heads=12,
    intermediate_size=2048,
)
TRAINED = [
    ("torch", 0, "fp32", 1), ("torch", 0, "bf16", 1), ("deepspeed", 0, "fp32", 1), ("deepspeed", 1, "fp32", 2),
    ("deepspeed", 2, "fp32", 1), ("deepspeed", 2, "bf16", 2), ("deepspeed", 3, "fp32", 2),
]  # fmt: skip
"""Engine, ZeRO stage, precision, ranks."""
LEARNED = [("materialise", "weights"), ("hybrid", "weights"), ("hybrid", "layers"), ("materialise", "none")]
"""learn.forward, learn.recompute."""


def config_of(case: dict[str, Any]) -> GrowConfig:
    ranks, stage = case.get("ranks", 1), case.get("stage", 0)
    return GrowConfig(
        small=SmallConfig(name="small", model=dict(SMALL)),
        target=TARGET,
        operator=OperatorConfig(name="ligo", init="stack", steps=2, batch_tokens=LENGTH * WINDOWS)
        if case["what"] == "learn"
        else OperatorConfig(name="exact"),
        learn=LearnConfig(forward=case.get("forward", "auto"), recompute=case.get("recompute", "weights")),
        data=DataConfig(sequence_length=LENGTH, validation_tokens=LENGTH * WINDOWS),
        train=TrainConfig(
            max_tokens=10**6, batch_tokens=LENGTH * WINDOWS * ranks, engine=case.get("engine", "torch"),
            precision=case.get("precision", "fp32"),
        ),
        deepspeed={"zero_optimization": {"stage": stage}},
        hardware=replace(GrowConfig().hardware, count=ranks),
        stages=[case["what"]],
    )  # fmt: skip


def plan_of(config: GrowConfig) -> GrowthPlan:
    return make_plan(config, SMALL)


# --- measured in children ---------------------------------------------------------------------------


def steps_of(case: dict[str, Any]) -> tuple[Callable[[], object], Callable[[], object]]:
    """(one step or write, an evaluation) of a case, models built."""
    import numpy as np
    import torch

    from ligo.families.stock import as_on_disk, fresh_model
    from ligo.training.objectives import make_objective

    config = config_of(case)
    plan = plan_of(config)
    objective, draws = make_objective(plan.target), np.random.default_rng(0)
    windows = draws.integers(0, SMALL["vocab_size"], (WINDOWS, LENGTH + 1))
    if case["what"] == "train":
        from ligo.training.config import batch_shape
        from ligo.training.engines import make_engine
        from ligo.training.loop import evaluate

        shape = batch_shape(config.train, LENGTH, case.get("ranks", 1))
        engine = make_engine(_model(case, plan), objective, config.train, shape, config.deepspeed)
        return lambda: engine.step(windows, 1e-4), lambda: evaluate(engine, [windows])
    torch.manual_seed(0)
    model = fresh_model(plan.small)
    small = {n: t.detach() for n, t in as_on_disk(model, dict(model.named_parameters())).items()}
    if case["what"] == "write":
        from ligo.growth.write import GrowthWriter

        writer = GrowthWriter(plan, plan.maps, small.__getitem__, "float32", NoiseLevel(), 0)

        def write() -> None:
            with tempfile.TemporaryDirectory() as folder:
                writer.write(Path(folder), Path(folder) / "record", shard_bytes=10**9)

        return write, lambda: None
    from ligo.learning.fit import learn_operator

    def learn() -> None:
        learn_operator(
            plan, small.__getitem__, lambda step: windows, [windows], config.operator, config.learn, lambda record: None,
            objective=objective, seed=0,
        )  # fmt: skip

    return learn, lambda: None


def _model(case: dict[str, Any], plan: GrowthPlan) -> Any:
    """As `pretrained_model` gives it: dealt out while it is made under ZeRO-3."""
    from ligo.families.stock import fresh_model

    if case.get("engine") != "deepspeed" or case.get("stage") != 3:
        return fresh_model(plan.target)
    import deepspeed

    with deepspeed.zero.Init(
        config_dict_or_path={"zero_optimization": {"stage": 3}, "train_micro_batch_size_per_gpu": 1}
    ):
        return fresh_model(plan.target)


def child(case: dict[str, Any]) -> None:
    """Run a case and print its peak in bytes beyond the libraries'."""
    import torch

    from ligo.core import distributed
    from ligo.core.libraries import quiet_libraries
    from ligo.families.stock import fresh_model, skeleton

    quiet_libraries()
    if case.get("engine") == "deepspeed":
        from ligo.training.deepspeed_engine import import_deepspeed

        import_deepspeed()
        distributed.start()
    plan = plan_of(config_of(case))
    with torch.device("meta"):
        fresh_model(plan.target)
    if case["what"] == "learn":
        skeleton(plan.target)
    use_kernels(plan, torch.bfloat16 if case.get("precision") == "bf16" else torch.float32)
    before = status("VmRSS")
    step, evaluate = steps_of(case)
    held = status("VmRSS") - before
    for _ in range(2 if case["what"] == "train" else 1):
        step()
    evaluate()
    if distributed.rank() == 0:
        print(json.dumps({"peak_bytes": status("VmHWM") - before, "held_bytes": held}))
    if distributed.is_started():
        distributed.barrier()  # a rank that ends first takes the store along that the others still ask
        distributed.stop()


def use_kernels(plan: GrowthPlan, dtype: Any) -> None:
    """Have the libraries fill what they keep for themselves, some 35 MB: code, and room to pack matrices of these shapes in."""
    import torch
    from torch.nn import functional as F

    tokens = LENGTH * WINDOWS
    for shape in {job.shape for job in plan.jobs if len(job.shape) == 2}:
        weight, x = (
            torch.ones(size, dtype=dtype, requires_grad=True) for size in (shape, (tokens, shape[1]))
        )
        F.linear(x, weight).sum().backward()
    torch.optim.AdamW([weight]).step()
    logits = torch.ones(tokens, SMALL["vocab_size"], requires_grad=True)
    F.cross_entropy(logits, torch.zeros(tokens, dtype=torch.long)).backward()
    heads = torch.ones(WINDOWS, 8, LENGTH, 64, dtype=dtype, requires_grad=True)
    F.scaled_dot_product_attention(heads, heads, heads, is_causal=True).sum().backward()


def status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def measured(case: dict[str, Any]) -> dict[str, int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = case.get("ranks", 1)
    shared = {
        "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1",
        "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    command = [sys.executable, "-m", "benchmarks.plan", json.dumps(case)]
    children = [
        subprocess.Popen(
            command, cwd=REPO, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(ranks)
    ]  # fmt: skip
    ended = [process.communicate() for process in children]
    failed = [
        f"rank {rank} ended with {process.returncode}:\n{errors}"
        for rank, (process, (_, errors)) in enumerate(zip(children, ended, strict=True))
        if process.returncode
    ]
    if failed:
        raise RuntimeError("\n".join(failed))
    return json.loads(ended[0][0].splitlines()[-1])  # type: ignore[no-any-return]


# --- rows -------------------------------------------------------------------------------------------


def memory_rows() -> tuple[dict[str, Any], dict[str, Any]]:
    """Peak of a rank beyond its libraries."""
    cases: list[dict[str, Any]] = [
        {"what": "train", "engine": engine, "stage": stage, "precision": precision, "ranks": ranks}
        for engine, stage, precision, ranks in TRAINED
    ]
    cases += [{"what": "learn", "forward": forward, "recompute": again} for forward, again in LEARNED]
    found = []
    for case in cases:
        config = config_of(case)
        memory = costs(config, plan_of(config)).stages[case["what"]].memory
        predicted, real = memory.peak - memory.libraries, measured(case)["peak_bytes"]
        found.append({**case, "predicted_bytes": round(predicted), "measured_bytes": real, "phase": memory.phase,
                      "error": predicted / real - 1})  # fmt: skip
        print(found[-1], file=sys.stderr, flush=True)
    write = {"what": "write"}
    config = config_of(write)
    bound, real = costs(config, plan_of(config)).stages["write"].memory.peak, measured(write)["peak_bytes"]
    worst = max(abs(case["error"]) for case in found)
    return {
        "memory: predicted / measured - 1, worst of training and learning": row(
            worst, "<= 0.10", worst <= 0.1
        ),
        "memory: writing / its bound": row(real / bound, "<= 1", real <= bound),
    }, {"cases": found}


def flops_rows() -> tuple[dict[str, Any], dict[str, Any]]:
    """Against torch's counter, with eager attention; tiny models of twelve layers, as the smallest real ones have."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from ligo.accounting.flops import model_flops
    from ligo.families.base import family_of
    from ligo.families.stock import fresh_model
    from ligo.steps import loss_of, training_step, with_layers
    from tests.families.tiny import RMS_DECODERS
    from tests.families.tiny_others import OTHERS

    found = {}
    for name in ("llama", "gpt2", "bert", "vit"):
        family = with_layers(family_of({**RMS_DECODERS, **OTHERS}[name]), 12)
        length = 16 if family.dims.vocab_size else family.tokens_per_image
        model = fresh_model(family)
        model.set_attn_implementation("eager")
        sizes = family.dims.vocab_size
        rows = (
            torch.randint(3, sizes, (2, length + 1))
            if sizes
            else torch.zeros(
                2, family.setting("num_channels") * family.setting("image_size") ** 2 + 1, dtype=torch.long
            )
        )
        with FlopCounterMode(display=False) as counter:
            loss_of(family)(model, rows).backward()
        predicted = {
            "formula": model_flops(family, length).training * 2 * length,
            "trace": training_step(family, windows=2, length=length).work.flops,
        }
        real = counter.get_total_flops()
        found[name] = {"counted": real, **{how: flops / real - 1 for how, flops in predicted.items()}}
    worst = max(abs(case[how]) for case in found.values() for how in ("formula", "trace"))
    return {"FLOPs: predicted / counted - 1, worst": row(worst, "<= 0.02", worst <= 0.02)}, found


def plan_time_rows(rounds: int = 5) -> tuple[dict[str, Any], dict[str, Any]]:
    """Seconds of a training step, of learning's steps and evaluations, and of a write; probe and run take turns."""
    import torch

    torch.set_num_threads(1)
    found = {}
    for case in ({"what": "train"}, {"what": "learn", "forward": "materialise"}, {"what": "write"}):
        config = config_of(case)
        plan = plan_of(config)
        dims = plan.target.dims
        shape = Shape(WINDOWS, LENGTH, dims.hidden_size, dims.ffn_size, dims.num_heads, dims.vocab_size)
        work = costs(config, plan).stages[case["what"]].work
        if case["what"] == "train":
            work = training_step_work(config, plan)
        step, _ = steps_of(case)
        predicted, real = [], []
        for _ in range(rounds):
            predicted.append(measure(shape, seconds=3).seconds(work))
            started = time.perf_counter()
            step()
            real.append(time.perf_counter() - started)
        # medians: the luckiest of short probes is a burst that no run of half a minute keeps up
        found[case["what"]] = {
            "predicted_s": median(predicted),
            "measured_s": median(real),
            "error": median(predicted) / median(real) - 1,
        }
        print(case, found[case["what"]], file=sys.stderr, flush=True)
    worst = max(abs(case["error"]) for case in found.values())
    return {
        "time: predicted / measured - 1, worst of a step, learning, a write": row(
            worst, "<= 0.25", worst <= 0.25
        )
    }, found


def training_step_work(config: GrowConfig, plan: GrowthPlan) -> Work:
    from ligo.steps import training_step

    return training_step(plan.target, windows=WINDOWS, length=LENGTH).work + Work(
        updated=plan.target.num_parameters
    )


def main() -> None:
    if len(sys.argv) > 1:
        child(json.loads(sys.argv[1]))
        return
    rows, details = {}, {}
    for measure_rows in (memory_rows, flops_rows, plan_time_rows):
        more, details[measure_rows.__name__.removesuffix("_rows")] = measure_rows()
        rows |= more
    finish("plan", rows, details)


if __name__ == "__main__":
    main()
