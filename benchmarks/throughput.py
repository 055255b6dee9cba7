"""Tokens per second of the training loop against Hugging Face's Trainer and nanoGPT's loop, one process, float32.

    python -m benchmarks.throughput [NANOGPT]

NANOGPT: a checkout of nanoGPT (github.com/karpathy/nanoGPT), by default the folder that the variable of this name names;
its model and optimiser are used as they are, and the body of its loop is written out here (train.py is a script). All
contenders train the same sizes on the same tokens with fused AdamW, take turns, and are timed in CPU seconds of one thread
over whole steps, the first ones left out. Figures go to benchmarks/results/throughput.json.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import finish, row
from ligo.core.libraries import quiet_libraries
from ligo.families.base import family_of
from ligo.tracking.jsonl import JsonlTracker
from ligo.training.config import TrainConfig, batch_shape
from ligo.training.engine import make_engine
from ligo.training.loop import train
from ligo.training.models import fresh_model
from ligo.training.objectives import make_objective

LENGTH, WINDOWS = 128, 8
VOCAB, WIDTH, LAYERS, HEADS = 8192, 320, 6, 5
LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCAB, "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "head_dim": WIDTH // HEADS,
    "intermediate_size": 864, "max_position_embeddings": LENGTH, "tie_word_embeddings": False, "pad_token_id": None,
}  # fmt: skip
GPT2 = {
    "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": VOCAB, "n_embd": WIDTH, "n_layer": LAYERS,
    "n_head": HEADS, "n_positions": LENGTH, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
    "activation_function": "gelu", "pad_token_id": None, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
LR, DECAY, BETAS, CLIP = 1e-3, 0.1, (0.9, 0.95), 1.0
WARM, STEPS, ROUNDS = 2, 8, 5

Contender = Callable[[], float]
"""Runs WARM + STEPS steps of a fresh model; CPU seconds of the last STEPS."""


class Clock:
    """CPU seconds between the ends of two steps."""

    def __init__(self) -> None:
        self._ends: list[float] = []

    def step_ended(self) -> None:
        self._ends.append(time.process_time())

    @property
    def seconds(self) -> float:
        return self._ends[WARM + STEPS - 1] - self._ends[WARM - 1]


class Tokens:
    """The windows of a step: a pure function of it."""

    def __init__(self) -> None:
        self.tokens = np.random.default_rng(0).integers(0, VOCAB, 200_000).astype(np.uint16)

    def __getitem__(self, step: int) -> np.ndarray:
        starts = np.random.default_rng(step).integers(0, len(self.tokens) - LENGTH, WINDOWS)
        return np.stack([self.tokens[start : start + LENGTH + 1] for start in starts]).astype(np.int64)


class Timed(JsonlTracker):
    """The tracker that a run has anyway, which the loop calls at the end of every step."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        super().__init__(folder / "metrics.jsonl", folder / "summary.json")
        self._clock = clock

    def log(self, record: dict[str, Any]) -> None:
        super().log(record)
        if "train/loss" in record:
            self._clock.step_ended()


def ours(model_config: dict[str, Any], tokens: Tokens) -> float:
    """Our own loop with the plain engine, and a step more, whose evaluation and checkpoint are not the contest."""
    config = TrainConfig(
        max_tokens=(WARM + STEPS + 1) * WINDOWS * LENGTH, batch_tokens=WINDOWS * LENGTH, lr=LR, weight_decay=DECAY,
        beta1=BETAS[0], beta2=BETAS[1], clip=CLIP, engine="torch", evaluate_every=10**9, save_every=10**9,
    )  # fmt: skip
    clock, family = Clock(), family_of(model_config)
    engine = make_engine(
        fresh_model(model_config, 0), make_objective(family), config, batch_shape(config, LENGTH, 1), {}
    )

    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        train(
            engine, arm="bench", batches=tokens, validation=[tokens[0][:1]], config=config, flops_per_token=1.0,
            tracker=Timed(Path(folder), clock), checkpoints=Path(folder) / "checkpoints", config_hash="bench",
        )  # fmt: skip
    return clock.seconds


def trainer(model_config: dict[str, Any], tokens: Tokens) -> float:
    """transformers.Trainer, all that is optional off."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    clock = Clock()

    class AtEnd(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.step_ended()

    windows = np.concatenate([tokens[step] for step in range(WARM + STEPS)])[:, :-1]
    data = [{"input_ids": torch.from_numpy(w), "labels": torch.from_numpy(w)} for w in windows]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, use_cpu=not torch.cuda.is_available(), max_steps=WARM + STEPS, logging_steps=10**9,
            per_device_train_batch_size=WINDOWS, learning_rate=LR, weight_decay=DECAY, adam_beta1=BETAS[0],
            adam_beta2=BETAS[1], max_grad_norm=CLIP, optim="adamw_torch_fused", save_strategy="no", report_to="none",
            disable_tqdm=True, dataloader_pin_memory=False,
        )  # fmt: skip
        with redirect_stdout(StringIO()):
            Trainer(fresh_model(model_config, 0), arguments, train_dataset=data, callbacks=[AtEnd()]).train()
    return clock.seconds


def nanogpt(folder: Path, tokens: Tokens) -> float:
    """The body of nanoGPT's loop: train.py, from `get_batch` to `zero_grad`, for one CPU process without gradient scaling."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", folder / "model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["nanogpt_model"] = module
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    with redirect_stdout(StringIO()):
        model = module.GPT(
            module.GPTConfig(
                block_size=LENGTH,
                vocab_size=VOCAB,
                n_layer=LAYERS,
                n_head=HEADS,
                n_embd=WIDTH,
                dropout=0.0,
                bias=True,
            )
        )
        # its own choice is a fused AdamW on "cuda" alone; torch has one for CPUs by now
        optimizer = model.configure_optimizers(DECAY, LR, BETAS, "cuda")

    def get_batch() -> tuple[torch.Tensor, torch.Tensor]:
        starts = torch.randint(len(tokens.tokens) - LENGTH, (WINDOWS,))
        x, y = (
            torch.stack(
                [torch.from_numpy(tokens.tokens[i + o : i + o + LENGTH].astype(np.int64)) for i in starts]
            )
            for o in (0, 1)
        )
        return x, y

    clock = Clock()
    x, y = get_batch()
    for _ in range(WARM + STEPS):
        for group in optimizer.param_groups:
            group["lr"] = LR
        _, loss = model(x, y)
        x, y = get_batch()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        clock.step_ended()
    return clock.seconds


def compare(contenders: dict[str, Contender]) -> dict[str, dict[str, float]]:
    """Tokens per CPU second of each: the median of ROUNDS in which they take turns."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(ROUNDS):
        names = list(contenders) if number % 2 else list(reversed(contenders))
        for name in names:
            rates[name].append(STEPS * WINDOWS * LENGTH / contenders[name]())
    return {
        name: {"tokens_per_s": statistics.median(found), "lowest": min(found), "highest": max(found)}
        for name, found in rates.items()
    }


def trainer_rows() -> tuple[dict[str, Any], dict[str, Any]]:
    """Against transformers.Trainer, on a LLaMA."""
    tokens = Tokens()
    found = compare({"ligo": lambda: ours(LLAMA, tokens), "Trainer": lambda: trainer(LLAMA, tokens)})
    ratio = found["ligo"]["tokens_per_s"] / found["Trainer"]["tokens_per_s"]
    parameters = family_of(LLAMA).num_parameters
    return {
        "tokens per second / those of transformers.Trainer, LLaMA": row(ratio, ">= 1.0", ratio >= 1.0),
        "model FLOPs utilisation": row(None, "GPU", None),
    }, {"parameters": parameters, **found}


def nanogpt_rows(folder: Path | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Against nanoGPT's loop, on a GPT-2."""
    name = "tokens per second / those of nanoGPT's loop, GPT-2"
    if folder is None or not (folder / "model.py").is_file():
        return {name: row(None, ">= 1.0", None)}, {"absent": "no checkout of nanoGPT was given"}
    tokens = Tokens()
    found = compare({"ligo": lambda: ours(GPT2, tokens), "nanoGPT": lambda: nanogpt(folder, tokens)})
    ratio = found["ligo"]["tokens_per_s"] / found["nanoGPT"]["tokens_per_s"]
    return {name: row(ratio, ">= 1.0", ratio >= 1.0)}, {"parameters": family_of(GPT2).num_parameters, **found}


def main() -> None:
    torch.set_num_threads(1)
    quiet_libraries()
    given = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("NANOGPT")
    rows, details = trainer_rows()
    more, others = nanogpt_rows(None if given is None else Path(given))
    finish("throughput", {**rows, **more}, {"trainer": details, "nanogpt": others})


if __name__ == "__main__":
    main()
