"""What tuning holds: its plan against what is measured, and whether QLoRA's largest base fits where it did.

Measured as in benchmarks/plan.py: the peak of a fresh process beyond its libraries, on a model of some 50 M parameters; on a GPU
torch's own peak. Loading is left out: the peak is counted anew once the model is there, and apart
from the file that it was read from.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import REPO, Figures, row
from benchmarks.plan import SMALL, status
from ligo.accounting.hardware import HardwareConfig
from ligo.families.base import family_of
from ligo.options import compose_options
from ligo.tune import OPTIONS
from ligo.tune_plan import TuningPlan
from ligo.tuning.config import TuneTrainConfig, TuningConfig

LENGTH, EXAMPLES = 256, 2
MODEL = {**SMALL, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 6, "num_attention_heads": 12,
         "num_key_value_heads": 12}  # fmt: skip
CASES = (
    {"method": "lora", "quantization": "nf4"},
    {"method": "vera", "quantization": "nf4"},
    {"method": "lora", "quantization": "nf4", "activation_checkpointing": "full"},
    {"method": "lora", "quantization": "none"},
    {"method": "full", "quantization": "none"},
)
LIMIT_GB = 48


def options_of(case: dict[str, Any]) -> tuple[TuningConfig, TuneTrainConfig]:
    peft = {} if case["method"] == "full" else {"r": 64, "target_modules": "all-linear"}
    tuning = TuningConfig(method=case["method"], quantization=case["quantization"], peft=peft)
    again = case.get("activation_checkpointing", "none")
    return tuning, TuneTrainConfig(engine="torch", batch_size=EXAMPLES, activation_checkpointing=again)


def plan_of(case: dict[str, Any]) -> TuningPlan:
    tuning, train = options_of(case)
    return TuningPlan(
        family_of(MODEL), tuning, train, max_length=LENGTH, deepspeed={}, hardware=HardwareConfig()
    )


# --- measured in children ---------------------------------------------------------------------------


def child(case: dict[str, Any], folder: Path) -> None:
    """Tune two steps, evaluate once, and print the peak in bytes beyond the libraries'."""
    import numpy as np
    import torch

    from ligo.core.libraries import quiet_libraries
    from ligo.training.config import batch_shape
    from ligo.training.engines import make_engine
    from ligo.training.loop import evaluate
    from ligo.training.models import pretrained_model
    from ligo.training.objectives import make_objective
    from ligo.tuning.adapters import add_adapter, import_peft, peft_config
    from ligo.tuning.batches import VALIDATION_ROWS
    from ligo.tuning.config import training_of
    from ligo.tuning.quantized import import_bitsandbytes, quantized_model

    quiet_libraries()
    import_peft("memory")
    import_bitsandbytes()
    plan_of(case).trained  # noqa: B018 - loads what building and adapting a model needs
    x = torch.ones(64, 64, requires_grad=True)
    (x @ x).sum().backward()
    torch.optim.AdamW([x], fused=True).step()
    on_gpu, before = torch.cuda.is_available(), status("VmRSS")
    tuning, train = options_of(case)
    if tuning.quantization == "nf4":
        model = quantized_model(folder, train, double_quantization=True)
    else:
        model = pretrained_model(folder, {}, train)
    if tuning.method != "full":
        model = add_adapter(model, peft_config(tuning))
    plain = training_of(train, EXAMPLES, LENGTH)
    engine = make_engine(model, make_objective(family_of(MODEL)), plain, batch_shape(plain, LENGTH, 1), {})
    for parameter in model.parameters():  # else the pages of the file that was read count too
        if parameter.is_floating_point():
            parameter.data = parameter.data.clone()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins at what is held now
    draws = np.random.default_rng(0)
    windows = draws.integers(0, MODEL["vocab_size"], (VALIDATION_ROWS, LENGTH + 1))
    for _ in range(2):
        engine.step(windows[:EXAMPLES], 1e-4)
    evaluate(engine, [windows])
    peak = torch.cuda.max_memory_allocated() if on_gpu else status("VmHWM") - before
    print(json.dumps({"peak_bytes": peak}))


def measured(case: dict[str, Any], folder: Path, *, on_gpu: bool) -> int:
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1",
        **({} if on_gpu else {"CUDA_VISIBLE_DEVICES": ""}),
    }  # fmt: skip
    command = [sys.executable, "-m", "benchmarks.tune_memory", json.dumps(case), str(folder)]
    done = subprocess.run(command, cwd=REPO, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return int(json.loads(done.stdout.splitlines()[-1])["peak_bytes"])


# --- rows -------------------------------------------------------------------------------------------


def planned_rows() -> Figures:
    """Guanaco's recipe on LLaMA-65B, by one process of torch and by DeepSpeed; nothing of it is at hand or needed."""
    found = {}
    for engine in ("torch", "deepspeed"):
        words = [
            "+recipe=guanaco-65b",
            "hardware=a100",
            f"train.engine={engine}",
            "plan=true",
        ]
        config, _ = compose_options(words, OPTIONS)
        plan = TuningPlan(
            family_of(dict(config.small.model)), config.tuning, config.train, max_length=config.data.max_length,
            deepspeed=config.deepspeed, hardware=config.hardware,
        )  # fmt: skip
        parts = {name: round(size / 1e9, 2) for name, size in plan.memory.parts.items()}
        found[engine] = {"trained": plan.trained, "peak_gb": plan.memory.peak / 1e9, "parts_gb": parts}
    most = max(each["peak_gb"] for each in found.values())
    return {
        "GB planned for QLoRA beside LLaMA-65B on one GPU": row(most, f"< {LIMIT_GB}", most < LIMIT_GB)
    }, found


def memory_rows() -> Figures:
    """The plan of each way to tune against the peak of a process."""
    import torch

    from ligo.families.stock import fresh_model

    rows: dict[str, Any] = {}
    details: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        torch.manual_seed(0)
        fresh_model(family_of(MODEL)).save_pretrained(folder)
        for device, there in (("CPU", True), ("GPU", torch.cuda.is_available())):
            name = f"tuning's memory on a {device}: planned / measured - 1, worst"
            if not there:
                rows[name] = row(None, "GPU", None)
                continue
            details[device] = [_compared(case, folder, on_gpu=device == "GPU") for case in CASES]
            worst = max((each["error"] for each in details[device]), key=abs)
            rows[name] = row(worst, "within 0.1", abs(worst) <= 0.1)
    return rows, details


def _compared(case: dict[str, Any], folder: Path, *, on_gpu: bool) -> dict[str, Any]:
    memory = plan_of(case).memory
    planned, real = memory.peak - memory.libraries, measured(case, folder, on_gpu=on_gpu)
    found = {**case, "planned_bytes": round(planned), "measured_bytes": real, "phase": memory.phase}
    print(found, file=sys.stderr, flush=True)
    return {**found, "error": planned / real - 1}


MEASURES = (planned_rows, memory_rows)


if __name__ == "__main__":
    child(json.loads(sys.argv[1]), Path(sys.argv[2]))
