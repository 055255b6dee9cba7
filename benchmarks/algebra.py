"""make bench-algebra: the matrix of operators x families measured anew, and the figures of growth on trained models.

Figures go to benchmarks/results/algebra.json, the page of the matrix to docs/matrix.md; the last line printed is one
line of JSON.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import REPO, finish, row
from ligo.checkpoint.locate import Source, locate
from ligo.checkpoint.reader import Checkpoint
from ligo.checkpoint.writer import write_weights
from ligo.config import compose, wanted_dims
from ligo.core.errors import CheckpointError
from ligo.core.files import write_json
from ligo.core.log import progress, say
from ligo.data.loader import Batches, validation_batches
from ligo.families.base import family_of
from ligo.growth.execute import grow_tensors, sources
from ligo.growth.plan import plan_growth
from ligo.growth.verify import load_stock, verify_growth
from ligo.learning.config import LearnConfig
from ligo.learning.fit import learn_operator
from ligo.learning.functional import grown_parameters
from ligo.operators.config import OperatorConfig, build
from ligo.operators.noise_level import NO_NOISE, NoiseLevel
from ligo.training.config import TrainConfig, batch_shape
from ligo.training.loop import evaluate
from ligo.training.objectives import make_objective
from ligo.training.schedule import learning_rate
from ligo.training.torch_engine import TorchEngine
from tests.contract import matrix, page
from tests.growing import EXACT_FLOAT32, EXACT_FLOAT64, grow, operator, with_fresh_head

STEPS, TOKENS = 40, 2048  # of training after growth, and tokens per step
LARGE = 30_000_000  # parameters of a target that gets a tenth of both: minutes on two cores
GENTLE = (
    0.1  # of the peak rate after growth: so few steps only get over the bump of a decayed model at a low one
)
SHARED = REPO.parent / "shared" / "data"

MODELS = {
    "tiny-llama": ["+small=tiny-llama", "+target=tiny-llama-2x", "data=kjv"],
    "tiny-gpt2": ["+small=tiny-gpt2", "+target=tiny-gpt2-2x", "data=kjv"],
    "tiny-pythia": ["+small=tiny-pythia", "+target=tiny-pythia-2x", "data=kjv"],
    "tiny-bert": ["+small=tiny-bert", "+target=tiny-bert-2x", "data=kjv", "data.sequence_length=32"],
    "tiny-vit": ["+small=tiny-vit", "+target=tiny-vit-2x", "data=digits"],
    "stories260k": [
        "+small=checkpoint", f"small.path={SHARED / 'stories260k-llama'}", "+target=custom", "target.hidden_size=96",
        "target.num_hidden_layers=8", "target.num_attention_heads=12", "target.num_key_value_heads=6",
        "target.intermediate_size=256", "train.lr=3e-4", "data=custom", f"data.path={SHARED / 'tinystories-sample'}",
    ],
    "smollm2-135m": ["+small=smollm2-135m", "+target=smollm2-200m", "data=kjv"],
    "minilm": ["+small=minilm", "+target=minilm-2x", "data=kjv"],
}  # fmt: skip
"""Trained models, each as a command line would name it; the foreign ones only where they are at hand."""


def the_matrix() -> tuple[dict[str, Any], dict[str, Any]]:
    """Every cell, measured in float64: rows of the last line, and counts."""
    verdicts: Counter[str] = Counter()
    exact, approximate, wrong = [0.0], [float("inf")], []
    cases = matrix.cases()
    with progress("operators x families", len(cases)) as bar:
        for case in cases:
            found = matrix.compare(*case)
            verdicts[found.outcome.verdict] += 1
            if found.difference is not None:
                (exact if found.outcome.verdict == "exact" else approximate).append(found.difference)
            if not found.agrees:
                wrong.append([*case, found.outcome.verdict, found.difference])
            bar.advance()
    rows = {
        "cells where what is declared is not what is measured": row(len(wrong), "0", not wrong),
        "largest float64 logit difference of exact growth": row(
            max(exact), "<= 1e-12", max(exact) <= EXACT_FLOAT64
        ),
        "smallest float64 logit difference of approximate growth": row(
            min(approximate), "> 1e-7", min(approximate) > matrix.CLEARLY_OTHER
        ),
    }
    return rows, {"cells": len(cases), "verdicts": dict(verdicts), "wrong": wrong}


def float32_exactness() -> dict[str, Any]:
    """Twice the width of every family, noise included, in float32."""
    worst = 0.0
    for family, config in matrix.FAMILIES.items():
        worst = max(worst, grow(config, matrix.wanted(family, "2x width"), dtype="float32").difference())
    return {"largest float32 logit difference of exact growth": row(worst, "<= 5e-5", worst <= EXACT_FLOAT32)}


def symmetry() -> dict[str, Any]:
    """Relative difference of copied FFN rows after five optimiser steps, with noise and without."""
    found = {}
    for noise in (1.0, 0.0):
        model = grow(
            matrix.FAMILIES["llama"], matrix.wanted("llama", "2x"), dtype="float32", noise=noise
        ).model
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        tokens = torch.randint(0, 96, (4, 33), generator=torch.Generator().manual_seed(1))
        for _ in range(5):
            optimizer.zero_grad()
            model(input_ids=tokens, labels=tokens).loss.backward()
            optimizer.step()
        gate = model.model.layers[0].mlp.gate_proj.weight.detach()
        found[noise] = float((gate[48:] - gate[:48]).norm() / gate[:48].norm())
    return {
        "copies after 5 steps with noise, relative difference": row(found[1.0], "> 1e-3", found[1.0] > 1e-3),
        "copies after 5 steps without noise, relative difference": row(
            found[0.0], "< 1e-5", found[0.0] < 1e-5
        ),
    }


def written_is_learned() -> dict[str, Any]:
    """Whether what is written equals, bit for bit, the weights that learning saw."""
    model = TrainedModel(MODELS["tiny-llama"])
    config = OperatorConfig(name="ligo", init="stack", steps=5, evaluate_every=5, noise=0.0)
    plan = plan_growth(model.small.config, model.wanted, build(config))
    tensors = {name: model.small.read(name).float() for name in model.small.shapes}
    batches = model.batches(windows=16)
    learned = learn_operator(
        plan, tensors.__getitem__, batches.__getitem__, [batches[999]], config, LearnConfig(), lambda record: None,
        objective=model.objective, seed=0,
    )  # fmt: skip
    with torch.no_grad():
        seen = grown_parameters(plan, learned.maps, sources(plan, learned.maps, tensors.__getitem__))
    written = grow_tensors(
        plan, learned.maps, tensors.__getitem__, dtype=torch.float32, noise=NO_NOISE, seed=0
    )
    same = all(torch.equal(tensor, seen[name]) for name, tensor in written) and learned.best_step > 0
    return {"written equals learned, bit for bit in float32": row(same, "true", same)}


class TrainedModel:
    """A trained checkpoint with the text or images that it goes on with, as a command line names them.

    One without a head gets a masked-LM head drawn fresh, in a folder that is there as long as this object.
    """

    def __init__(self, arguments: list[str]) -> None:
        config, _ = compose(arguments)
        small = config.small
        self.folder = locate(Source(name=small.name, path=small.path, package_file=small.package_file))
        if not family_of(Checkpoint.open(self.folder).config).has_head:
            self._with_head = tempfile.TemporaryDirectory()
            self.folder = with_fresh_head(self.folder, Path(self._with_head.name))
        opened = Checkpoint.open(self.folder)
        family = family_of(opened.config)
        self.small, self.wanted, self.lr = (
            opened.named_for(family),
            wanted_dims(config.target),
            config.train.lr,
        )
        self.objective = make_objective(family, self.small.tokenizer)
        self.corpus, self.length = self.objective.prepare(config.data), config.data.sequence_length
        self.data = config.data.name

    def batches(self, windows: int) -> Batches:
        return Batches(self.corpus, self.length, windows, 0)

    def grow_and_train_on(self, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Grow exactly, verify with stock transformers, train on: rows of the last line, and figures."""
        depth = "identity" if family_of(self.small.config).post_norm else "zero_block"
        wanted = {**self.wanted, "num_layers": None} if depth == "identity" else self.wanted
        plan = plan_growth(self.small.config, wanted, operator(depth=depth))
        share = 10 if plan.target.num_parameters > LARGE else 1
        steps, windows = STEPS // share, max(1, TOKENS // share // self.length)
        validation = validation_batches(self.corpus, self.length, 16, 16384 // share)
        probe = self.objective.inputs(torch.from_numpy(validation[0][:4])).numpy()
        with tempfile.TemporaryDirectory() as scratch:
            grown = Path(scratch)
            tensors = grow_tensors(
                plan, plan.maps, self.small.read, dtype=torch.float32, noise=NoiseLevel(), seed=0
            )
            write_weights(grown, tensors)
            write_json(grown / "config.json", {**plan.target_config, "dtype": "float32"})
            found = verify_growth(self.folder, grown, probe, claimed_exact=True, stored_dtype="float32")
            model = load_stock(grown)
        batch_tokens = windows * self.length
        training = TrainConfig(
            engine="torch", lr=GENTLE * self.lr, batch_tokens=batch_tokens, max_tokens=steps * batch_tokens
        )
        engine = TorchEngine(model, self.objective, training, batch_shape(training, self.length, 1))
        before, batches = evaluate(engine, validation), self.batches(windows)
        for step in range(steps):
            engine.step(batches[step], learning_rate(training, step))
        after = evaluate(engine, validation)
        difference = found.max_logit_difference / max(found.max_logit / 3, 1.0)
        rows = {
            f"{name}: float32 logit difference": row(difference, "<= 5e-5", difference <= EXACT_FLOAT32),
            f"{name}: nats won in {steps} steps after growth": row(before - after, "> 0", after < before),
        }
        sizes = {key: value for key, value in wanted.items() if value is not None}
        parameters = [plan.small.num_parameters, plan.target.num_parameters]
        return rows, {"parameters": parameters, "target": sizes, "data": self.data, "peak_lr": training.lr,
                      "loss_at_growth": before, "loss_after": after}  # fmt: skip


def main() -> None:
    rows, counts = the_matrix()
    page.PAGE.write_text(page.render(), encoding="utf-8")
    rows |= float32_exactness() | symmetry() | written_is_learned()
    figures: dict[str, Any] = {}
    for name, arguments in MODELS.items():
        try:
            model = TrainedModel(arguments)
        except CheckpointError as missing:  # shared data or a package that is not here
            say(f"{name}: {missing}")
            rows[f"{name}: float32 logit difference"] = row(None, "<= 5e-5", None)
            continue
        more, figures[name] = model.grow_and_train_on(name)
        rows |= more
    finish("algebra", rows, {"matrix": counts, "trained_models": figures})


if __name__ == "__main__":
    main()
