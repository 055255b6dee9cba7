"""The models that ligo ships: they load as they are, know what their cards say, grow exactly, and go on learning."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import ligo
from ligo.checkpoint.locate import packaged
from ligo.checkpoint.reader import Checkpoint
from ligo.config import GrowConfig, compose, small_training
from ligo.core.files import read_json
from ligo.data.corpus import Corpus
from ligo.data.images import Images
from ligo.data.loader import Batches, validation_batches
from ligo.families.base import family_of
from ligo.families.stock import expected_shapes, fresh_model
from ligo.growth.execute import grow_tensors
from ligo.growth.plan import GrowthPlan
from ligo.growth.verify import load_stock, outputs
from ligo.plan import make_plan
from ligo.training.config import TrainConfig
from ligo.training.objectives import Objective, make_objective
from ligo.training.optim import make_optimizer
from ligo.training.schedule import num_steps
from tests.growing import EXACT_FLOAT32, load_from_disk_names

ZOO = Path(ligo.__file__).parent / "zoo"
MODELS = sorted(folder.name for folder in ZOO.iterdir() if folder.is_dir())
LARGEST = 1.5e6  # bytes of weights: the package is to stay a few megabytes
HALF = 1e-4  # float16 weights changed no loss by more than 1e-5; the rest is for other machines
STEPS, TOKENS, RATE = 4, 2048, 3e-5  # few and small: the loss falls at once, and it takes seconds


@dataclass
class Shipped:
    """One model with its objective, its data, and the config that grows it."""

    name: str
    folder: Path
    config: GrowConfig
    objective: Objective
    corpus: Corpus | Images

    @property
    def validation(self) -> list[Any]:
        data = self.config.data
        return validation_batches(self.corpus, data.sequence_length, 32, data.validation_tokens)

    def loss(self, model: Any, batches: list[Any]) -> float:
        with torch.no_grad():
            losses = [self.objective.loss(model, torch.from_numpy(batch)).item() for batch in batches]
        sizes = [self.objective.num_tokens(batch) for batch in batches]
        return sum(loss * size for loss, size in zip(losses, sizes, strict=True)) / sum(sizes)


@pytest.fixture(scope="module", autouse=True)
def token_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIGO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@cache
def shipped(name: str) -> Shipped:
    config, _ = compose([f"experiment=zoo-{name}"])
    package = "sklearn" if config.data.name == "digits" else "bible"
    if importlib.util.find_spec(package) is None:  # its code is not run, only its data is read
        pytest.skip(f"the package {package} is not installed")
    checkpoint = Checkpoint.open(ZOO / name)
    objective = make_objective(make_plan(config, checkpoint.config).small, checkpoint.tokenizer)
    return Shipped(name, ZOO / name, config, objective, objective.prepare(config.data))


def grow(model: Shipped, *changes: str) -> tuple[GrowthPlan, Any]:
    """The growth of conf/target, and the grown stock model in float32, with the noise that is written."""
    config, _ = compose([f"experiment=zoo-{model.name}", "operator=exact", *changes])
    checkpoint = Checkpoint.open(model.folder)
    plan = make_plan(config, checkpoint.config)
    target = fresh_model(plan.target).float().eval()
    tensors = grow_tensors(
        plan, plan.maps, checkpoint.read, dtype=torch.float32, noise=config.operator.noise_level, seed=0
    )
    load_from_disk_names(target, dict(tensors))
    return plan, target


@pytest.mark.parametrize("name", MODELS)
def test_it_loads_as_the_stock_model_that_config_json_names(name: str) -> None:
    config, _ = compose([f"small={name}", f"target={name}-2x"])
    assert packaged(config.small.package_file or "") == ZOO / name
    checkpoint = Checkpoint.open(ZOO / name)
    assert type(load_stock(ZOO / name)).__name__ == checkpoint.config["architectures"][0]
    assert set(checkpoint.dtypes.values()) == {"F16"}
    assert checkpoint.config["dtype"] == "float16"
    assert (ZOO / name / "model.safetensors").stat().st_size < LARGEST
    checkpoint.expect(expected_shapes(family_of(checkpoint.config)))


@pytest.mark.parametrize("name", MODELS)
def test_its_loss_is_the_one_on_its_card(name: str) -> None:
    model, record = shipped(name), read_json(ZOO / name / "ligo.json")
    loss = record["training"]["loss"]
    assert model.loss(load_stock(model.folder), model.validation) == pytest.approx(loss, abs=HALF)
    assert f"| validation loss | {loss:.4f} nats per" in (ZOO / name / "README.md").read_text()
    training = small_training(model.config)
    assert record["training"]["tokens"] == num_steps(training) * training.batch_tokens
    assert record["options"]["lr"] == training.lr


@pytest.mark.parametrize("name", MODELS)
def test_it_grows_exactly(name: str) -> None:
    model = shipped(name)
    plan, _ = grow(model)
    post_norm = plan.small.post_norm
    assert plan.exactness.exact is not post_norm
    # a norm follows every block of BERT, so that no layer can be inserted that does nothing: width alone is exact
    changes = [f"target.num_hidden_layers={plan.small.dims.num_layers}"] if post_norm else []
    plan, target = grow(model, *changes)
    assert plan.exactness.exact
    inputs = model.objective.inputs(torch.from_numpy(model.validation[0][:4]))
    expected, found = outputs(load_stock(model.folder), inputs), outputs(target, inputs)
    scale = max(1.0, float(expected.abs().max()) / 3)
    assert float((found - expected).abs().max()) <= EXACT_FLOAT32 * scale


@pytest.mark.parametrize("name", MODELS)
def test_grown_it_goes_on_learning(name: str) -> None:
    model = shipped(name)
    _, target = grow(model)
    length = model.config.data.sequence_length
    batches = Batches(model.corpus, length, TOKENS // length, seed=1)
    # 32 images are 32 guesses, 32 windows of text are thousands
    held_out = model.validation if isinstance(model.corpus, Images) else model.validation[:1]
    at_growth = model.loss(target, held_out)
    optimizer = make_optimizer(target.train(), TrainConfig(lr=RATE))
    for step in range(STEPS):
        model.objective.loss(target, torch.from_numpy(batches[step])).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(target.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert model.loss(target.eval(), held_out) < at_growth
