"""make bench-demo: is the exact start exact, does learning keep its promise, what does the demo save?

Two runs of the documented demo, operator=ligo and operator=exact, against one scratch run. Figures go to
benchmarks/results/demo.json; the last line printed is one line of JSON.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import REPO, best_seconds, finish, row
from ligo.accounting.savings import curve, savings
from ligo.checkpoint.locate import packaged
from ligo.checkpoint.reader import Checkpoint
from ligo.checkpoint.writer import write_weights
from ligo.core.files import read_json, write_json
from ligo.growth.execute import grow_tensors
from ligo.growth.plan import plan_growth
from ligo.growth.verify import verify_growth
from ligo.operators.config import OperatorConfig, build
from ligo.operators.noise_level import NoiseLevel
from ligo.tracking.jsonl import read_records

RUNS = REPO / "runs" / "bench-demo"
DEMO = ("+small=tiny-llama", "+target=tiny-llama-2x", "run.study=bench-demo")


def exactness(small_folder: Path, wanted: dict[str, int], dtype: str) -> float:
    """Largest logit difference of an exact growth with noise, written in `dtype` and reloaded by transformers."""
    small = Checkpoint.open(small_folder)
    plan = plan_growth(small.config, wanted, build(OperatorConfig()))
    folder = RUNS / f"exact-{small_folder.name}-{dtype}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tensors = grow_tensors(
        plan, plan.maps, small.read, dtype=getattr(torch, dtype), noise=NoiseLevel(), seed=0
    )
    write_weights(folder, tensors)
    write_json(folder / "config.json", {**plan.target_config, "dtype": dtype})
    probe = torch.randint(0, plan.small.dims.vocab_size, (4, 128), generator=torch.Generator().manual_seed(0))
    found = verify_growth(small_folder, folder, probe.numpy(), claimed_exact=False, stored_dtype=dtype)
    return found.max_logit_difference / max(found.max_logit / 3, 1.0)  # at logits of about 3


def demo(operator: str, stages: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One run of the demo: its stage results and its metrics."""
    folder = RUNS / operator
    shutil.rmtree(folder, ignore_errors=True)
    command = [
        sys.executable,
        "-m",
        "ligo.grow",
        *DEMO,
        f"operator={operator}",
        f"stages={stages}",
        f"run.dir={folder}",
    ]
    subprocess.run(command, cwd=REPO, check=True)
    return read_json(folder / "stages.json"), read_records(folder / "metrics.jsonl")


def main() -> None:
    tiny = packaged("package:ligo/zoo/tiny-llama")
    assert tiny is not None
    twice = {"hidden_size": 192, "num_layers": 6, "num_heads": 8, "num_kv_heads": 4, "ffn_size": 384}
    float32, float64 = (exactness(tiny, twice, dtype) for dtype in ("float32", "float64"))
    rows = {
        "exact start, float32 logit difference": row(float32, "<= 5e-5", float32 <= 5e-5),
        "exact start, float64 logit difference": row(float64, "<= 1e-12", float64 <= 1e-12),
    }
    stories = REPO.parent / "shared" / "data" / "stories260k-llama"
    if stories.is_dir():
        wanted = {"hidden_size": 96, "num_layers": 8, "num_heads": 12, "num_kv_heads": 6, "ffn_size": 256}
        value = exactness(stories, wanted, "float32")
        rows["stories260k 1.5x, float32 logit difference"] = row(value, "<= 5e-5", value <= 5e-5)
    else:
        rows["stories260k 1.5x, float32 logit difference"] = row(None, "<= 5e-5", None)

    learned, with_scratch = demo("ligo", "[learn,write,verify,train,scratch,continue,report]")
    exact, without = demo("exact", "[learn,write,verify,train]")
    gained = learned["learn"]["start_loss"] - learned["learn"]["best_loss"]
    rows["learning never ends above its start, nats gained"] = row(gained, ">= 0", gained >= 0)
    small_flops = read_json(tiny / "ligo.json")["training"]["flops"]
    scratch = curve(with_scratch, "scratch")
    tables: dict[str, Any] = {}
    for name, records, results in (("ligo", with_scratch, learned), ("exact", without, exact)):
        spent = results["learn"].get("flops", 0.0) + results["write"]["build_flops"]
        table = savings(curve(records, "grown"), scratch, operator_flops=spent, small_flops=small_flops)
        tables[name] = [saving.as_json() for saving in table]
        for saving in table:
            value = saving.saving
            key = f"operator={name}, FLOPs saved, {saving.convention}"
            rows[key] = row(value, "> 0", value is not None and value > 0)
    importing = best_seconds([sys.executable, "-c", "import ligo"])
    command = [sys.executable, "-m", "ligo.plan", "+small=llama-7b", "+target=13b", "hardware=none"]
    planning = best_seconds(command)
    rows["import ligo, seconds"] = row(round(importing, 3), "< 0.2", importing < 0.2)
    rows["ligo.plan hardware=none, seconds"] = row(round(planning, 3), "< 3", planning < 3)
    losses = {
        "scratch": learned["scratch"]["loss"],
        "ligo, grown and trained": learned["train"]["loss"],
        "exact, grown and trained": exact["train"]["loss"],
        "small model trained on, equal FLOPs": learned["continue"]["loss"],
        "ligo, before learning": learned["learn"]["start_loss"],
        "ligo, after learning": learned["learn"]["best_loss"],
    }
    seconds = {stage: learned[stage]["wall_s"] for stage in ("learn", "train", "scratch", "continue")}
    finish("demo", rows, {"savings": tables, "validation_losses": losses, "seconds": seconds})


if __name__ == "__main__":
    main()
