"""Moments go into an engine and come out of it as they are, and the next update is Adam's with them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ligo.checkpoint.optimizer import open_optimizer_state, read_optimizer_file
from ligo.core.errors import CheckpointError
from ligo.families.base import family_of
from ligo.training.config import TrainConfig, batch_shape
from ligo.training.engine import Engine
from ligo.training.engines import make_engine
from ligo.training.models import fresh_model
from ligo.training.moments import load_moments, write_moments
from ligo.training.objectives import make_objective
from ligo.training.torch_engine import TorchEngine
from tests.conftest import REPO, tiny_config
from tests.training.arms import CONFIG, LENGTH, SyntheticWindows

FAMILY = family_of(tiny_config())
ROUNDING = 1e-6  # float32, of weights up to 1; an update is 5e-3
PARITY = 1e-5  # float32 rounding of the same arithmetic in another order, over eight steps
LR = CONFIG.lr
ENGINES = {
    "torch": ("torch", 0, "fp32"),
    **{f"ZeRO-{s} {p}": ("deepspeed", s, p) for s in (0, 1, 2, 3) for p in ("fp32", "bf16")},
}
SINGLE = [name for name in ENGINES if "bf16" not in name]

Make = Callable[..., Engine]


@pytest.fixture
def make() -> Iterator[Make]:
    """Engines on the tiny model, closed at the end."""
    made: list[Engine] = []

    def engine(
        name: str, config: TrainConfig = CONFIG, seed: int = 0, weights: dict[str, Tensor] | None = None
    ) -> Engine:
        kind, stage, precision = ENGINES[name]
        config = replace(config, engine=kind, precision=precision)
        keys = {"zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 10}}
        model, shape = fresh_model(FAMILY.config, seed), batch_shape(config, LENGTH, 1)
        model.load_state_dict(model.state_dict() if weights is None else weights)
        made.append(make_engine(model, make_objective(FAMILY), config, shape, keys))
        return made[-1]

    yield engine
    for each in made:
        each.close()


def some_moments(seed: int = 0) -> dict[str, tuple[Tensor, Tensor]]:
    """Of the size that they have in training."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {n: p.shape for n, p in fresh_model(FAMILY.config, 0).named_parameters()}
    return {
        name: (
            torch.randn(shape, generator=generator) * 1e-3,
            torch.rand(shape, generator=generator) * 1e-5,
        )
        for name, shape in shapes.items()
    }


def batch(step: int) -> np.ndarray:
    return SyntheticWindows()[step]


@pytest.mark.parametrize("name", ENGINES)
def test_moments_come_out_as_they_went_in_and_no_weight_changes(
    name: str, make: Make, tmp_path: Path
) -> None:
    moments, before = some_moments(), {n: p.clone() for n, p in make(name).weights().items()}
    write_moments(tmp_path / "moments.safetensors", FAMILY, 7, moments)
    engine = make(name)
    load_moments(engine, FAMILY, read_optimizer_file(tmp_path / "moments.safetensors", FAMILY), batch(0))
    step, found = engine.moments()
    assert step == 7
    assert found.keys() == moments.keys()
    for key, pair in moments.items():
        assert all(torch.equal(one, other) for one, other in zip(pair, found[key], strict=True))
    assert all(torch.equal(weight, before[n]) for n, weight in engine.weights().items())


def test_three_ranks_share_them_out() -> None:
    """Three, because ZeRO-3 then has pieces that do not fill their place."""
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    for variable in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(variable, None)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=3",
        "-m",
        "tests.training.ranks",
    ]
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    for stage in (1, 3):
        assert f"stage {stage}: 7 steps, moments True, weights True" in done.stdout


@pytest.mark.parametrize("name", SINGLE)
def test_the_first_update_is_adams_with_these_moments(name: str, make: Make) -> None:
    config = replace(CONFIG, clip=0.0)
    engine, steps, moments = make(name, config), 7, some_moments()
    engine.load_moments(steps, moments, batch(0))
    engine.step(batch(1), LR)

    model = fresh_model(FAMILY.config, 0).train()
    make_objective(FAMILY).loss(model, torch.from_numpy(batch(1))).backward()
    found, b1, b2 = engine.weights(), config.beta1, config.beta2
    for key, parameter in model.named_parameters():
        first = b1 * moments[key][0] + (1 - b1) * parameter.grad
        second = b2 * moments[key][1] + (1 - b2) * parameter.grad**2
        corrected = first / (1 - b1 ** (steps + 1)), second / (1 - b2 ** (steps + 1))
        decay = config.weight_decay if parameter.ndim >= 2 else 0.0
        expected = parameter * (1 - LR * decay) - LR * corrected[0] / (corrected[1].sqrt() + 1e-8)
        torch.testing.assert_close(found[key], expected.detach(), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("name", SINGLE)
def test_a_run_that_goes_on_from_weights_and_moments_equals_one_that_never_stopped(
    name: str, make: Make, tmp_path: Path
) -> None:
    whole, half = make(name), make(name)
    for step in range(8):
        whole.step(batch(step), LR)
    for step in range(4):
        half.step(batch(step), LR)
    write_moments(tmp_path / "optimizer.safetensors", FAMILY, *half.moments())
    rest = make(name, weights=half.weights())
    load_moments(rest, FAMILY, open_optimizer_state(tmp_path, None, FAMILY), batch(4))
    for step in range(4, 8):
        rest.step(batch(step), LR)
    expected, found = whole.weights(), rest.weights()
    for key in expected:
        if name == "torch":
            assert torch.equal(found[key], expected[key])
        else:
            torch.testing.assert_close(found[key], expected[key], rtol=0, atol=PARITY)


@pytest.mark.parametrize("name", SINGLE)
def test_moments_come_out_of_a_run_that_was_taken_up_at_its_end(
    name: str, make: Make, tmp_path: Path
) -> None:
    first = make(name)
    for step in range(3):
        first.step(batch(step), LR)
    first.save(tmp_path)
    again = make(name, seed=1)
    again.load_moments(7, some_moments(), batch(0))  # as an arm does before it finds its checkpoint
    again.load(tmp_path)
    (steps, expected), (found_steps, found) = first.moments(), again.moments()
    assert found_steps == steps == 3
    for key, pair in expected.items():
        assert all(torch.equal(one, other) for one, other in zip(pair, found[key], strict=True))


def save_as_their_makers_do(engine: Any, folder: Path) -> None:
    if isinstance(engine, TorchEngine):
        torch.save({"optimizer": engine._optimizer.state_dict()}, folder / "state.pt")
    else:
        engine._engine.save_checkpoint(str(folder), tag="engine", save_latest=False)


@pytest.mark.parametrize("name", ["torch", "ZeRO-0 fp32", "ZeRO-0 bf16", "ZeRO-1 fp32", "ZeRO-3 bf16"])
def test_checkpoints_of_either_engine_are_read(
    name: str, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIGO_ALLOW_PICKLE", "true")  # as `allow_pickle=true` on the command line does
    engine = make(name)
    for step in range(3):
        engine.step(batch(step), LR)
    save_as_their_makers_do(engine, tmp_path)
    steps, moments = engine.moments()
    path = next(iter([*tmp_path.glob("state.pt"), *tmp_path.glob("engine/*rank_00_model_states.pt")]))
    if "ZeRO-1" in name or "ZeRO-3" in name:
        path = tmp_path
        with pytest.raises(CheckpointError, match="ds_to_universal") as error:
            open_optimizer_state(tmp_path, str(path), FAMILY)
        command = next(line.strip() for line in str(error.value).splitlines() if "python -m" in line)
        workers = ["--num_extract_workers", "1", "--num_merge_workers", "1"]
        subprocess.run([sys.executable, *command.split()[1:], *workers], check=True, capture_output=True)
        path = Path(str(error.value).rsplit("small.optimizer_state=", 1)[1])
    state: Any = open_optimizer_state(tmp_path, str(path), FAMILY)
    assert (
        state.step == steps == 3 + (name == "ZeRO-0 bf16")
    )  # DeepSpeed makes its states there by a step of zeros
    for key, (first, second) in moments.items():
        assert torch.equal(state.read(key, "exp_avg"), first)
        assert torch.equal(state.read(key, "exp_avg_sq"), second)
