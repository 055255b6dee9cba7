"""How fast and in how much memory a grown checkpoint is written, on synthetic ones of LLaMA's shapes.

    python -m benchmarks.writing

Every figure stands beside what it is compared with, measured in turn in the same run. Figures go to
benchmarks/results/writing.json.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import REPO, finish, peak_resident_bytes, row
from ligo.checkpoint.reader import Checkpoint
from ligo.checkpoint.shards import lay_out, write_shards
from ligo.core import units
from ligo.core.files import folder_resumed, write_json
from ligo.core.log import say
from ligo.growth.execute import grow_tensors
from ligo.growth.plan import GrowthPlan, plan_growth
from ligo.growth.write import GrowthWriter
from ligo.operators.config import OperatorConfig, build
from ligo.operators.noise_level import NoiseLevel

LLAMA_7B = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "intermediate_size": 11008, "vocab_size": 32000,
    "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "max_position_embeddings": 2048, "hidden_act": "silu",
    "initializer_range": 0.02, "dtype": "bfloat16",
}  # fmt: skip
LLAMA_13B = {"hidden_size": 5120, "num_layers": 40, "num_heads": 40, "num_kv_heads": 40, "ffn_size": 13824}
LLAMA_33B = {
    "hidden_size": 6656, "num_hidden_layers": 60, "num_attention_heads": 52, "num_key_value_heads": 52,
    "intermediate_size": 17920,
}  # fmt: skip
LLAMA_65B = {"hidden_size": 8192, "num_layers": 80, "num_heads": 64, "num_kv_heads": 64, "ffn_size": 22016}

SHARD_BYTES = 5 * 10**9 // 2
FEW_LAYERS = (4, 5)  # of the small model and the target, where everything is held in memory for comparison
ROUNDS = 5  # the speed of a disk varies several-fold between seconds
ROUNDS_WHOLE = 3
ROUNDS_WITH_NOISE = 2
DISK_SHARE, SPARE_BYTES = 0.8, 2 * 10**9


@dataclass(frozen=True)
class Written:
    """One write in a process of its own."""

    seconds: float
    peak_bytes: int
    """Resident, libraries included."""
    num_bytes: int
    num_shards: int


def main() -> None:
    finish("writing", *writing_rows())


def writing_rows() -> tuple[dict[str, Any], dict[str, Any]]:
    """Against the disk and against a plain script; a whole 7B -> 13B."""
    folder = Path(tempfile.mkdtemp(prefix="ligo-writing-", dir=os.environ.get("LIGO_BENCH_DIR")))
    try:
        fast, fast_figures = against_disk_and_script(folder)
        large, large_figures = whole_size(folder)
    finally:
        shutil.rmtree(folder)
    return fast | large | planned_peak(), {**fast_figures, **large_figures}


def against_disk_and_script(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """LLaMA-7B's widths with a few layers: the disk alone, streamed, and load-all, save-all, in turn."""
    small, plan = folder / "few", growth_plan(*FEW_LAYERS)
    synthetic(small, plan)
    num_bytes = 2 * plan.target.num_parameters
    disk: list[float] = []
    streamed: dict[float, list[Written]] = {0.0: [], 1.0: []}
    script: list[Written] = []
    for turn in range(ROUNDS):
        disk.append(sequential_write(folder / "plain", num_bytes))
        streamed[0.0].append(write_apart("streamed", small, folder / "grown", 0.0))
        if turn < ROUNDS_WITH_NOISE:
            streamed[1.0].append(write_apart("streamed", small, folder / "grown", 1.0))
            script.append(write_apart("script", small, folder / "grown", 0.0))
    shutil.rmtree(small)
    seconds = {noise: min(run.seconds for run in runs) for noise, runs in streamed.items()}
    best_disk, best_script = min(disk), min(run.seconds for run in script)
    ratio = best_script / seconds[0.0]
    rows = {
        "write, copies, few layers: share of the disk's fastest of five": row(
            best_disk / seconds[0.0], "shown", None
        ),
        "write, copies, few layers: share of the disk's median": row(
            median(disk) / median(run.seconds for run in streamed[0.0]), "shown", None
        ),
        "write, copies with noise, few layers: share of the disk's fastest": row(
            best_disk / seconds[1.0], "shown", None
        ),
        "write: times faster than load all, save all": row(ratio, "> 1", ratio > 1),
    }
    figures = {
        "few layers": {
            "layers": FEW_LAYERS, "bytes": num_bytes, "disk_s": disk,
            "streamed_s": [run.seconds for run in streamed[0.0]],
            "streamed_with_noise_s": [run.seconds for run in streamed[1.0]],
            "script_s": [run.seconds for run in script], "script_peak_bytes": max(run.peak_bytes for run in script),
            "streamed_peak_bytes": max(run.peak_bytes for runs in streamed.values() for run in runs),
        }
    }  # fmt: skip
    return rows, figures


def whole_size(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """LLaMA-7B -> 13B whole, or with as many layers as the disk holds: peak memory with noise, speed without."""
    layers = (LLAMA_7B["num_hidden_layers"], LLAMA_13B["num_layers"])
    free = shutil.disk_usage(folder).free - SPARE_BYTES
    whole = growth_plan(*layers)
    needed = 2 * (whole.small.num_parameters + whole.target.num_parameters)
    if needed > free:
        layers = tuple(int(n * free / needed) for n in layers)
        say(
            f"the disk has {units.num_bytes(free)}, and {units.num_bytes(needed)} are needed: {layers} layers"
        )
    plan, small = growth_plan(*layers), folder / "whole"
    synthetic(small, plan)
    bound = 3 * largest_job(plan) + 2**29
    run = write_apart("streamed", small, folder / "grown", 1.0)
    # a disk's speed is what it keeps up: files of some GB differ five times from one to the next
    disk, cold, warm = [], [], []
    for _ in range(ROUNDS_WHOLE):
        disk.append(
            sequential_write(folder / "plain", run.num_bytes)
        )  # leaves nothing of the small model in memory
        for seconds in (cold, warm):
            seconds.append(write_apart("streamed", small, folder / "grown", 0.0).seconds)
    shutil.rmtree(small)
    size = f"LLaMA-7B -> 13B with {layers[0]} -> {layers[1]} layers"
    ok, share = run.peak_bytes <= bound and run.num_shards >= 8, sum(disk) / sum(warm)
    figures = {**vars(run), "layers": layers, "bytes_per_s": run.num_bytes / run.seconds}
    figures |= {"disk_s": disk, "copies_s": warm, "copies_read_from_disk_s": cold}
    rows = {
        f"write, {size}: peak resident bytes": row(run.peak_bytes, f"<= {bound}, >= 8 shards", ok),
        f"write, copies, {size}: share of the disk's sequential speed": row(
            share, ">= 0.8 with the small model in memory, as learning leaves it", share >= DISK_SHARE
        ),
        "write, copies, the small model read from the same disk: share of its speed": row(
            sum(disk) / sum(cold), "shown", None
        ),
    }
    return rows, {"whole size": figures}


def planned_peak() -> dict[str, Any]:
    """What the plan says for LLaMA-33B -> 65B."""
    plan = plan_growth({**LLAMA_7B, **LLAMA_33B}, LLAMA_65B, build(OperatorConfig(name="exact")))
    peak = writer(plan, lambda name: torch.empty(0), 1.0).peak_bytes
    reach = "shown: 3 x the largest tensor in float32 + 512 MB, which the whole write above is held to in bfloat16"
    return {"write, LLaMA-33B -> 65B: planned peak resident bytes": row(peak, reach, None)}


def largest_job(plan: GrowthPlan) -> int:
    """Bytes of the largest tensor as it is written; as it is computed, in float32, it has twice as many."""
    return 2 * max(torch.Size(job.shape).numel() for job in plan.jobs)


def growth_plan(num_small: int, num_target: int) -> GrowthPlan:
    """LLaMA-7B's and 13B's widths with these many layers, copied exactly."""
    small, target = {**LLAMA_7B, "num_hidden_layers": num_small}, {**LLAMA_13B, "num_layers": num_target}
    return plan_growth(small, target, build(OperatorConfig(name="exact")))


def writer(plan: GrowthPlan, read: Any, noise: float) -> GrowthWriter:
    return GrowthWriter(plan, plan.maps, read, "bfloat16", NoiseLevel(noise), 0)


def synthetic(folder: Path, plan: GrowthPlan) -> None:
    """Write a small checkpoint of random weights in bfloat16: slices of one block of random numbers, which is fast."""
    folder.mkdir()
    shapes = {spec.name: spec.shape(plan.small.spaces) for spec in plan.small.tensors}
    block = (torch.randn(2**25, generator=torch.Generator().manual_seed(0)) * 0.02).to(torch.bfloat16)

    def pieces(names: Sequence[str]) -> Iterator[Tensor]:
        for name in names:
            left = torch.Size(shapes[name]).numel()
            while left:
                yield block[:left]
                left -= min(left, len(block))

    write_shards(folder, lay_out(shapes, "BF16", SHARD_BYTES), pieces, folder / "record.json")
    (folder / "record.json").unlink()
    write_json(folder / "config.json", plan.small.config)


def sequential_write(file: Path, num_bytes: int) -> float:
    """Seconds that the disk takes for as many bytes, one after another, until they are on it."""
    block = os.urandom(2**24)
    started = time.perf_counter()
    with open(file, "wb") as handle:
        for start in range(0, num_bytes, len(block)):
            handle.write(block[: num_bytes - start])
        handle.flush()
        os.fsync(handle.fileno())
    seconds = time.perf_counter() - started
    file.unlink()
    return seconds


def write_apart(how: str, small: Path, final: Path, noise: float) -> Written:
    """Write in a process of its own; what was written is removed."""
    layers = json.loads((small / "config.json").read_text())["num_hidden_layers"]
    target = FEW_LAYERS[1] if layers == FEW_LAYERS[0] else layers * LLAMA_13B["num_layers"] // 32
    command = [
        sys.executable,
        "-m",
        "benchmarks.writing",
        how,
        str(small),
        str(final),
        str(target),
        str(noise),
    ]
    done = subprocess.run(command, cwd=REPO, check=True, stdout=subprocess.PIPE, text=True)
    shutil.rmtree(final)
    found = Written(**json.loads(done.stdout.splitlines()[-1]))
    say(f"{how}, noise {noise:g}: {units.num_bytes(found.num_bytes)} in {found.seconds:.1f} s, "
        f"peak {units.num_bytes(found.peak_bytes)}")  # fmt: skip
    return found


def one_write(how: str, small: Path, final: Path, num_target: int, noise: float) -> None:
    """What `write_apart` starts: time one write, and print it as JSON."""
    checkpoint = Checkpoint.open(small)
    plan = growth_plan(checkpoint.config["num_hidden_layers"], num_target)
    started = time.perf_counter()
    if how == "streamed":
        with folder_resumed(final, "benchmark") as (folder, record):
            done = writer(plan, checkpoint.read, noise).write(folder, record, shard_bytes=SHARD_BYTES)
        num_bytes, num_shards = done["num_bytes"], done["num_shards"]
    else:
        num_bytes, num_shards = load_all_save_all(checkpoint, plan, final, noise)
    seconds = time.perf_counter() - started
    print(json.dumps(vars(Written(seconds, peak_resident_bytes(), num_bytes, num_shards))))


def load_all_save_all(checkpoint: Checkpoint, plan: GrowthPlan, final: Path, noise: float) -> tuple[int, int]:
    """The plain script: load all weights, grow them with the same functions, save all shards, see them on the disk."""
    from safetensors.torch import load_file, save_file

    small: dict[str, Tensor] = {}
    for file in sorted(checkpoint.folder.glob("*.safetensors")):
        small |= {name: tensor.clone() for name, tensor in load_file(file).items()}
    tensors = grow_tensors(
        plan, plan.maps, small.__getitem__, dtype=torch.float32, noise=NoiseLevel(noise), seed=0
    )
    grown = {name: tensor.to(torch.bfloat16) for name, tensor in tensors}
    final.mkdir()
    shards = lay_out({name: tuple(tensor.shape) for name, tensor in grown.items()}, "BF16", SHARD_BYTES)
    for shard in shards:
        save_file(
            {name: grown[name] for name in shard.entries}, final / shard.file, metadata={"format": "pt"}
        )
        with open(final / shard.file, "rb") as handle:
            os.fsync(handle.fileno())
    return sum(tensor.nbytes for tensor in grown.values()), len(shards)


if __name__ == "__main__":
    if len(sys.argv) == 6:
        how, small, final, num_target, noise = sys.argv[1:]
        one_write(how, Path(small), Path(final), int(num_target), float(noise))
    else:
        main()
