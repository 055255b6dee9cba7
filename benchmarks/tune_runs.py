"""Tuning runs by the command itself: where adapters begin, what merging changes, what kills change, and that losses fall.

The last needs ../shared/data beside the checkout: stories260k (a trained LLaMA of 260,032 parameters) and 5,000 of Alpaca's
instructions; it tunes the checkpoint as it is, and grown to twice the width by the exact operator.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.common import REPO, Figures, row
from ligo.config import compose
from ligo.grow import grow
from ligo.options import compose_options
from ligo.tune import OPTIONS, tune
from tests.tuning.tuned import checkpoint, instructions, tensors

SHARED = REPO.parent / "shared" / "data"
METHODS = ("full", "lora", "vera", "qlora", "qvera")
RATES = {"full": "1e-2", "lora": "2e-2", "vera": "2e-1", "qlora": "2e-2", "qvera": "2e-1"}
"""For the tiny checkpoint of tests/tuning."""
REAL_RATES = {"full": "1e-3", "lora": "4e-3", "vera": "4e-2", "qlora": "4e-3", "qvera": "4e-2"}
MERGED, PARITY = 1e-5, 1e-5
_STEPS, _CALM_RATE = 24, "1e-3"


def words_of(folder: Path, base: Path, data: Path, method: str, *more: str) -> list[str]:
    """The options of a short run."""
    return [
        f"small.path={base}", f"data.path={data}", f"run.dir={folder}", f"tuning={method}", "train.engine=torch",
        "tracking=jsonl", "hardware=none", *more,
    ]  # fmt: skip


def tiny_words(folder: Path, base: Path, data: Path, method: str, *more: str) -> list[str]:
    """The same on the tiny checkpoint, with a checkpoint at every second step."""
    return words_of(
        folder, base, data, method, f"train.lr={RATES[method]}", "train.batch_size=8", f"train.steps={_STEPS}",
        "data.max_length=200", "train.evaluate_every=12", "train.save_every=2", "data.validation_fraction=0.125", *more,
    )  # fmt: skip


def start(words: list[str], ranks: int = 1) -> subprocess.Popen[bytes]:
    """`python -m ligo.tune`, in a group of its own."""
    launcher = (
        ["torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", "-m"] if ranks > 1 else []
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(REPO)}
    return subprocess.Popen(
        [sys.executable, "-m", *launcher, "ligo.tune", *words], cwd=REPO, env=environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def finish(words: list[str], ranks: int = 1) -> None:
    """Run to the end: in this process, or on several ranks."""
    if ranks == 1:
        tune(*compose_options(words, OPTIONS))
    elif code := start(words, ranks).wait():
        raise RuntimeError(f"{' '.join(words)} ended with {code}")


def tune_killed(words: list[str], folder: Path, after_step: int, ranks: int = 1) -> int:
    """Kill a run (SIGKILL, all ranks) once it is past a step, then run it to its end; the step that it was killed at."""
    process = start(words, ranks)
    while steps_logged(folder) < after_step and process.poll() is None:
        time.sleep(0.005)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(1)  # ranks end with their launcher
    killed_at = steps_logged(folder)
    assert not (folder / "summary.json").exists(), "it ended before it was killed"
    finish(words, ranks)
    return killed_at


def steps_logged(folder: Path) -> int:
    metrics = folder / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") - 1 if metrics.exists() else -1


def left_by(folder: Path, method: str) -> bytes:
    name = "trained/model.safetensors" if method == "full" else "adapter/adapter_model.safetensors"
    return (folder / name).read_bytes()


# --- rows -------------------------------------------------------------------------------------------


def start_rows() -> Figures:
    """Fresh adapters beside random weights, and tuned ones added into them."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from ligo.tuning.adapters import add_adapter, peft_config
    from ligo.tuning.config import TuningConfig

    ids, begun, merging = torch.arange(40).reshape(2, 20), {}, {}

    def load(folder: Path) -> Any:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def logits(model: Any) -> torch.Tensor:
        with torch.no_grad():
            return model.eval()(ids).logits

    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        base, data = checkpoint(root / "base"), instructions(root / "words.json")
        before = logits(load(base))
        for method in ("lora", "vera"):
            config = peft_config(TuningConfig(method=method, peft={"target_modules": "all-linear"}))
            begun[method] = float((logits(add_adapter(load(base), config)) - before).abs().max())
            finish(tiny_words(root / method, base, data, method, "merge=true"))
            unmerged = logits(PeftModel.from_pretrained(load(base), root / method / "adapter"))
            merging[method] = float((unmerged - logits(load(root / method / "trained"))).abs().max())
    worst = max(merging.values())
    return {
        "a fresh VeRA adapter changes logits by": row(begun["vera"], 0, begun["vera"] == 0),
        "a fresh LoRA adapter changes logits by": row(begun["lora"], 0, begun["lora"] == 0),
        "merging an adapter changes logits by": row(worst, f"<= {MERGED:g}", worst <= MERGED),
    }, {"fresh": begun, "merged": merging}


def resume_rows() -> Figures:
    """Every method in one process, and adapters under ZeRO on two ranks, killed once and gone on with."""
    draw, same = random.Random(0), {}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        base, data = checkpoint(root / "base"), instructions(root / "words.json")
        cases = [(method, 0) for method in METHODS]
        cases += [(method, stage) for method in ("lora", "vera") for stage in (1, 2)]
        for method, stage in cases:
            name = f"{method}, ZeRO-{stage} on 2 ranks" if stage else method
            ranks, words = 1, ["train.micro_batch_size=4"]
            if stage:
                ranks, words = 2, ["train.engine=deepspeed", f"deepspeed=zero{stage}"]
            whole, cut = root / f"{method}-{stage}", root / f"{method}-{stage}-killed"
            finish(tiny_words(whole, base, data, method, *words), ranks)
            after = draw.randrange(3, _STEPS - 4)
            killed_at = tune_killed(tiny_words(cut, base, data, method, *words), cut, after, ranks)
            same[name] = {"killed_at": killed_at, "same": left_by(whole, method) == left_by(cut, method)}
            print(name, same[name], file=sys.stderr, flush=True)
    good = sum(each["same"] for each in same.values())
    return {
        "runs killed and gone on with that leave the same bytes": row(good, len(same), good == len(same)),
    }, {"killed": same}


def parity_rows() -> Figures:
    """Adapters of two ranks against those of one process, at a rate that does not blow rounding up.

    At the rates of the other rows it does: LoRA's losses are the same bits for nine steps, 6e-8 apart in the tenth and 2e-5 in
    the twentieth, and its weights end 2.6e-4 apart.
    """
    apart = {}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        base, data = checkpoint(root / "base"), instructions(root / "words.json")
        for method in ("lora", "vera"):
            found = []
            for stage in (0, 1, 2):
                folder, engine = root / f"{method}-{stage}", ["train.micro_batch_size=4"]
                if stage:
                    engine = ["train.engine=deepspeed", f"deepspeed=zero{stage}"]
                rate = f"train.lr={_CALM_RATE}"
                finish([*tiny_words(folder, base, data, method, *engine), rate], 2 if stage else 1)
                found.append(tensors(folder / "adapter" / "adapter_model.safetensors"))
            for stage, two in enumerate(found[1:], 1):
                name = f"{method}, ZeRO-{stage}"
                apart[name] = max(float((two[key] - found[0][key]).abs().max()) for key in two)
    furthest = max(apart.values())
    return {
        f"adapters of 2 ranks under ZeRO-1 and 2, off those of one process by, rate {_CALM_RATE}": row(
            furthest, f"<= {PARITY:g}", furthest <= PARITY
        )
    }, apart


def learning_rows() -> Figures:
    """Loss of held-out responses before and after 12 steps of 16 of Alpaca's instructions."""
    name = "ways to tune a real and a grown checkpoint that lower the loss of responses"
    small, alpaca = SHARED / "stories260k-llama", SHARED / "alpaca-5k"
    if not small.is_dir() or not alpaca.is_dir():
        return {name: row(None, "../shared/data", None)}, {}
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        words = [
            f"small.path={small}", "target=custom", "target.hidden_size=128", "target.num_attention_heads=16",
            "target.num_key_value_heads=8", "target.intermediate_size=384", "operator=exact", "stages=[write,verify]",
            f"run.dir={root / 'grown'}", "data.sequence_length=128", f"data.path={SHARED / 'tinyshakespeare' / 'input.txt'}",
            "tracking=jsonl", "hardware=none",
        ]  # fmt: skip
        grow(*compose(words))
        for model, base in (("stories260k", small), ("grown", root / "grown" / "grown")):
            for method in METHODS:
                folder = root / f"{model}-{method}"
                finish(
                    words_of(
                    folder, base, alpaca / "train.jsonl.gz", method, f"train.lr={REAL_RATES[method]}", "train.steps=12",
                    "train.batch_size=16", "train.evaluate_every=12", "data.max_length=320", "data.validation_examples=48",
                    f"data.validation_path={alpaca / 'valid.jsonl.gz'}", "data.on_long=drop",
                ))  # fmt: skip
                tuned = json.loads((folder / "summary.json").read_text())["tuning"]
                found[f"{model}, {method}"] = {
                    key: tuned[key] for key in ("start_loss", "loss", "trained_parameters")
                }
                print(model, method, found[f"{model}, {method}"], file=sys.stderr, flush=True)
    good = sum(each["loss"] < each["start_loss"] for each in found.values())
    return {name: row(good, len(found), good == len(found))}, found


MEASURES = (start_rows, resume_rows, parity_rows, learning_rows)
