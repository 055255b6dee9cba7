"""Tokens per second of the training loop against Hugging Face's Trainer and nanoGPT's loop, one process, float32.

    NANOGPT=DIR python -m benchmarks.throughput

NANOGPT: a folder with the code of nanoGPT (github.com/karpathy/nanoGPT), without which its row is left open;
its model and optimiser are used as they are, and the body of its loop is written out here (train.py is a script). Two loops
train the same sizes on tokens of the same kind with fused AdamW, and take a step each in turn; counted is the median step, in
CPU seconds of its thread, of all that a loop does between the ends of two steps. Figures go to benchmarks/results/throughput.json.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import finish, row, run_measures
from ligo.core.libraries import quiet_libraries
from ligo.families.base import family_of
from ligo.tracking.jsonl import JsonlTracker
from ligo.training.config import TrainConfig, batch_shape
from ligo.training.engines import make_engine
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
WARM, STEPS = 3, 16

Loop = Callable[[Callable[[], None]], None]
"""Makes WARM + STEPS steps of a fresh model, and calls what it is given at the end of each."""


class Turns:
    """Loops in threads of their own that take one step each in turn, so that what disturbs one disturbs the other."""

    def __init__(self, *names: str) -> None:
        self._waiting, self._changed = list(names), threading.Condition()
        self._ends: dict[str, list[float]] = {name: [] for name in names}

    def step_ended(self, name: str) -> None:
        """Called by a loop at the end of each step; goes on when all others have made theirs."""
        self._ends[name].append(time.thread_time())
        with self._changed:
            self._waiting.remove(name)
            self._waiting.append(name)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting[0] == name)

    def left(self, name: str) -> None:
        with self._changed:
            self._waiting.remove(name)
            self._changed.notify_all()

    def tokens_per_s(self, name: str) -> float:
        """The median step's, after WARM of them, in CPU seconds of its thread."""
        ends = self._ends[name][WARM - 1 : WARM + STEPS]
        return WINDOWS * LENGTH / statistics.median(end - start for start, end in pairwise(ends))


class Tokens:
    """The windows of a step: a pure function of it."""

    def __init__(self) -> None:
        self.tokens = np.random.default_rng(0).integers(0, VOCAB, 200_000).astype(np.uint16)

    def __getitem__(self, step: int) -> np.ndarray:
        starts = np.random.default_rng(step).integers(0, len(self.tokens) - LENGTH, WINDOWS)
        return np.stack([self.tokens[start : start + LENGTH + 1] for start in starts]).astype(np.int64)


class Timed(JsonlTracker):
    """The tracker that a run has anyway, which the loop calls at the end of every step."""

    def __init__(self, folder: Path, step_ended: Callable[[], None]) -> None:
        super().__init__(folder / "metrics.jsonl", folder / "summary.json")
        self._step_ended = step_ended

    def log(self, record: dict[str, Any]) -> None:
        super().log(record)
        if "train/loss" in record:
            self._step_ended()


def ours(model_config: dict[str, Any], tokens: Tokens, step_ended: Callable[[], None]) -> None:
    """Our own loop with the plain engine, and a step more, whose evaluation and checkpoint are not the contest."""
    config = TrainConfig(
        max_tokens=(WARM + STEPS + 1) * WINDOWS * LENGTH, batch_tokens=WINDOWS * LENGTH, lr=LR, weight_decay=DECAY,
        beta1=BETAS[0], beta2=BETAS[1], clip=CLIP, engine="torch", evaluate_every=10**9, save_every=10**9,
    )  # fmt: skip
    family = family_of(model_config)
    engine = make_engine(
        fresh_model(model_config, 0), make_objective(family), config, batch_shape(config, LENGTH, 1), {}
    )

    with tempfile.TemporaryDirectory() as folder:
        train(
            engine, arm="bench", batches=tokens, validation=[tokens[0][:1]], config=config, flops_per_token=1.0,
            tracker=Timed(Path(folder), step_ended), checkpoints=Path(folder) / "checkpoints", config_hash="bench",
        )  # fmt: skip


def trainer(model_config: dict[str, Any], tokens: Tokens, step_ended: Callable[[], None]) -> None:
    """transformers.Trainer, all that is optional off."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class AtEnd(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            step_ended()

    windows = np.concatenate([tokens[step] for step in range(WARM + STEPS)])[:, :-1]
    data = [{"input_ids": torch.from_numpy(w), "labels": torch.from_numpy(w)} for w in windows]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, use_cpu=not torch.cuda.is_available(), max_steps=WARM + STEPS, logging_steps=10**9,
            per_device_train_batch_size=WINDOWS, learning_rate=LR, weight_decay=DECAY, adam_beta1=BETAS[0],
            adam_beta2=BETAS[1], max_grad_norm=CLIP, optim="adamw_torch_fused", save_strategy="no", report_to="none",
            disable_tqdm=True, dataloader_pin_memory=False,
        )  # fmt: skip
        Trainer(fresh_model(model_config, 0), arguments, train_dataset=data, callbacks=[AtEnd()]).train()


def nanogpt(folder: Path, tokens: Tokens, step_ended: Callable[[], None]) -> None:
    """The body of nanoGPT's loop: train.py, from `get_batch` to `zero_grad`, for one CPU process without gradient scaling."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", folder / "model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["nanogpt_model"] = module
    spec.loader.exec_module(module)
    torch.manual_seed(0)
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
        step_ended()


def compare(own: Loop, others_name: str, others: Loop) -> tuple[float, dict[str, float]]:
    """How many times as fast as the other loop ours is, and tokens per CPU second of both."""
    turns = Turns("ligo", others_name)

    def run(name: str, loop: Loop) -> None:
        torch.set_num_threads(1)
        try:
            loop(lambda: turns.step_ended(name))
        finally:
            turns.left(name)

    second = threading.Thread(target=run, args=(others_name, others))
    with redirect_stdout(StringIO()):  # the last line of this program is its result
        second.start()
        run("ligo", own)  # in the main thread, where stop signals are received
        second.join()
    found = {name: turns.tokens_per_s(name) for name in ("ligo", others_name)}
    return found["ligo"] / found[others_name], found


def trainer_rows() -> tuple[dict[str, Any], dict[str, Any]]:
    """Against transformers.Trainer, on a LLaMA."""
    tokens = Tokens()
    ratio, found = compare(partial(ours, LLAMA, tokens), "Trainer", partial(trainer, LLAMA, tokens))
    parameters = family_of(LLAMA).num_parameters
    return {
        "tokens per second / those of transformers.Trainer, LLaMA": row(ratio, ">= 1.0", ratio >= 1.0),
        "model FLOPs utilisation": row(None, "GPU", None),
    }, {"parameters": parameters, "tokens_per_s": found}


def nanogpt_rows() -> tuple[dict[str, Any], dict[str, Any]]:
    """Against nanoGPT's loop, on a GPT-2; $NANOGPT is a folder with its code."""
    folder = Path(os.environ.get("NANOGPT", "/nowhere"))
    name = "tokens per second / those of nanoGPT's loop, GPT-2"
    if not (folder / "model.py").is_file():
        return {name: row(None, ">= 1.0", None)}, {"absent": "$NANOGPT is no folder with nanoGPT's code"}
    tokens = Tokens()
    ratio, found = compare(partial(ours, GPT2, tokens), "nanoGPT", partial(nanogpt, folder, tokens))
    return {name: row(ratio, ">= 1.0", ratio >= 1.0)}, {
        "parameters": family_of(GPT2).num_parameters,
        "tokens_per_s": found,
    }


def main() -> None:
    quiet_libraries()
    finish("throughput", *run_measures((trainer_rows, nanogpt_rows)))


if __name__ == "__main__":
    main()
