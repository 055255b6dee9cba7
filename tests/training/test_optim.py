"""Optimisers: parity with torch's own, new coordinates that begin anew, resume, refusals."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ligo.core import distributed
from ligo.core.errors import ConfigError
from ligo.data.loader import rank_slice
from ligo.families.base import family_of
from ligo.training.compute import check_fits
from ligo.training.config import TrainConfig, batch_shape, check, check_moments
from ligo.training.engine import Engine
from ligo.training.engines import make_engine
from ligo.training.models import fresh_model
from ligo.training.objectives import make_objective
from ligo.training.optim import MuonWithAdamW, RewarmingAdamW, make_optimizer, set_rate
from tests.conftest import REPO, tiny_config
from tests.training.arms import CONFIG, LENGTH, SyntheticWindows, records, run_arm
from tests.training.test_moments import some_moments

EXACT = 1e-12  # float64 rounding of the same arithmetic in another order, of weights up to 3
SAME = 1e-6  # float32 rounding, of losses up to 5
FAMILY = family_of(tiny_config())
DEEPSPEED = 1e-5  # the same over eight steps
MUON = 1e-4  # it orthogonalises in bfloat16, where a last place of float32 may turn a rounding over
EIGHT_BITS = 1e-3  # of losses around 4.6
WIDE = tiny_config(
    hidden_size=64, intermediate_size=96
)  # bitsandbytes leaves tensors of less than 4096 numbers in float32
BETAS, DECAY, STEPS, REWARM = (0.9, 0.999), 0.1, 12, 5


def engine_of(config: TrainConfig, stage: int = 0) -> Engine:
    keys = {"zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 10}}
    model = fresh_model(FAMILY.config, seed=0)
    shape = batch_shape(config, LENGTH, distributed.world_size())
    return make_engine(model, make_objective(FAMILY), config, shape, keys)


# --- new coordinates begin anew --------------------------------------------------------------------------


def run_adam(
    optimizer: torch.optim.Optimizer, weight: Tensor, gradients: list[Tensor], rates: list[float]
) -> Tensor:
    for gradient, rate in zip(gradients, rates, strict=True):
        weight.grad = gradient.clone()
        set_rate(optimizer, rate)
        optimizer.step()
    return weight.detach()


def test_old_coordinates_go_on_as_under_adamw_and_new_ones_begin_as_under_a_fresh_one() -> None:
    generator = torch.Generator().manual_seed(0)

    def draw() -> Tensor:
        return torch.randn(6, 5, dtype=torch.float64, generator=generator)

    start, first, second, new = draw(), draw(), draw() ** 2, draw() > 0
    gradients, rates = [draw() for _ in range(STEPS)], [1e-2 * (1 + step % 3) for step in range(STEPS)]
    arguments: dict[str, Any] = {"lr": 1.0, "betas": BETAS}

    def weights() -> nn.Parameter:
        return nn.Parameter(start.clone())

    def group(weight: Tensor) -> list[dict[str, Any]]:
        return [{"params": [weight], "weight_decay": DECAY}]

    mixed = weights()
    optimizer = RewarmingAdamW(group(mixed), rewarm_steps=REWARM, **arguments)
    zero_where_new = [torch.where(new, 0.0, moment) for moment in (first, second)]
    optimizer.state[mixed] = {
        "step": torch.tensor(500.0), "exp_avg": zero_where_new[0], "exp_avg_sq": zero_where_new[1],
        "new": new.to(torch.uint8), "born": torch.tensor(500.0),
    }  # fmt: skip
    found = run_adam(optimizer, mixed, gradients, rates)

    old = weights()
    kept = torch.optim.AdamW(group(old), **arguments)
    kept.state[old] = {"step": torch.tensor(500.0), "exp_avg": first.clone(), "exp_avg_sq": second.clone()}
    expected_old = run_adam(kept, old, gradients, rates)

    fresh = weights()
    warmed = [rate * min(1.0, (step + 1) / REWARM) for step, rate in enumerate(rates)]
    expected_new = run_adam(torch.optim.AdamW(group(fresh), **arguments), fresh, gradients, warmed)

    torch.testing.assert_close(found, torch.where(new, expected_new, expected_old), rtol=0, atol=EXACT)
    assert (expected_new - expected_old).abs().min() > 1e3 * EXACT  # they do differ everywhere


def new_places() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    shapes = {name: p.shape for name, p in fresh_model(FAMILY.config, 0).named_parameters()}
    return {name: torch.rand(shape, generator=generator) < 0.4 for name, shape in shapes.items()}


def rewarmed(config: TrainConfig, stage: int = 0) -> Engine:
    new, engine = new_places(), engine_of(config, stage)
    moments = {
        name: (first.masked_fill(new[name], 0.0), second.masked_fill(new[name], 0.0))
        for name, (first, second) in some_moments().items()
    }
    first = rank_slice(SyntheticWindows()[0], distributed.rank(), distributed.world_size())
    engine.load_moments(7, moments, first, new)
    return engine


STAGES = (0, 1, 2, 3)
REWARMING = replace(CONFIG, rewarm_steps=3, beta2=0.999)


@pytest.fixture(scope="module")
def rewarmed_losses() -> list[float]:
    """Of plain torch."""
    engine = rewarmed(REWARMING)
    losses = [engine.step(SyntheticWindows()[step], CONFIG.lr)[0] for step in range(6)]
    plain = engine_of(replace(REWARMING, rewarm_steps=0))
    plain.load_moments(7, some_moments(), SyntheticWindows()[0])
    without = [plain.step(SyntheticWindows()[step], CONFIG.lr)[0] for step in range(6)]
    assert max(abs(a - b) for a, b in zip(losses, without, strict=True)) > 100 * SAME  # it does something
    return losses


@pytest.mark.parametrize("stage", STAGES)
def test_new_coordinates_begin_anew_under_every_zero_stage(
    stage: int, rewarmed_losses: list[float], tmp_path: Path
) -> None:
    config = replace(REWARMING, engine="deepspeed")
    engine = rewarmed(config, stage)
    losses = [engine.step(SyntheticWindows()[step], CONFIG.lr)[0] for step in range(3)]
    engine.save(tmp_path)
    engine.close()
    again = rewarmed(config, stage)  # as an arm does before it finds its checkpoint
    again.load(tmp_path)
    losses += [again.step(SyntheticWindows()[step], CONFIG.lr)[0] for step in range(3, 6)]
    again.close()
    assert losses == pytest.approx(rewarmed_losses, abs=SAME)


def test_two_ranks_share_new_coordinates_out(rewarmed_losses: list[float]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
               "-m", "tests.training.rewarming_ranks"]  # fmt: skip
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [one["stage"] for one in found] == list(STAGES)
    for one in found:
        assert one["losses"] == pytest.approx(rewarmed_losses, abs=SAME)


def test_an_arm_with_new_coordinates_resumes_exactly(rewarmed_losses: list[float], tmp_path: Path) -> None:
    engine = rewarmed(REWARMING)
    for step in range(3):
        engine.step(SyntheticWindows()[step], CONFIG.lr)
    engine.save(tmp_path)
    again = engine_of(REWARMING)
    again.load(tmp_path)
    losses = [again.step(SyntheticWindows()[step], CONFIG.lr)[0] for step in range(3, 6)]
    assert losses == rewarmed_losses[3:]  # bit for bit


# --- Muon ------------------------------------------------------------------------------------------------


def test_muon_steps_hidden_matrices_and_adamw_the_rest() -> None:
    config = replace(CONFIG, optimizer="muon", muon_lr_factor=3.0)
    model, twin = (fresh_model(FAMILY.config, seed=0) for _ in range(2))
    optimizer = make_optimizer(model, config)
    assert isinstance(optimizer, MuonWithAdamW)
    hidden = {n for n, p in twin.named_parameters() if ".layers." in n and p.ndim == 2}
    outside = {n for n, p in twin.named_parameters() if p.ndim == 2} - hidden
    assert len(hidden) == 7 * FAMILY.dims.num_layers and {n.split(".")[-2] for n in outside} == {
        "embed_tokens",
        "lm_head",
    }
    groups = {True: [p for n, p in twin.named_parameters() if n in hidden]}
    vectors = [p for p in twin.parameters() if p.ndim == 1]
    muon = torch.optim.Muon(groups[True], weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(
        [{"params": [p for n, p in twin.named_parameters() if n in outside], "weight_decay": config.weight_decay},
         {"params": vectors, "weight_decay": 0.0}], betas=(config.beta1, config.beta2), fused=True,
    )  # fmt: skip
    for step in range(3):
        lr = 1e-2 / (step + 1)
        set_rate(optimizer, lr)
        set_rate(muon, 3 * lr)
        set_rate(adamw, lr)
        for each, steppers in ((model, [optimizer]), (twin, [muon, adamw])):
            each.zero_grad()
            batch = torch.from_numpy(SyntheticWindows()[step])
            make_objective(FAMILY).loss(each, batch).backward()  # type: ignore[no-untyped-call]
            for stepper in steppers:
                stepper.step()
    for name, parameter in twin.named_parameters():
        assert torch.equal(model.get_parameter(name), parameter)


def losses_of(
    folder: Path, optimizer: str, engine: str = "torch", stage: int = 0, stops: bool = False
) -> list[float]:
    """Of a whole arm, or of one that lost its last checkpoint and went on from the one before."""
    config, folder = (
        replace(CONFIG, optimizer=optimizer, engine=engine),
        folder / f"{optimizer}-{engine}-{stage}-{stops}",
    )
    check_fits(config, {"zero_optimization": {"stage": stage}})
    run_arm(folder, config, stage, model_config=WIDE)
    if stops:
        shutil.rmtree(folder / "checkpoints" / "step-00000008")
        run_arm(folder, config, stage, model_config=WIDE)
    return [record["train/loss"] for record in records(folder) if "train/loss" in record]


@pytest.mark.parametrize("optimizer", ["muon", "adamw8bit"])
def test_an_arm_with_it_resumes_exactly(optimizer: str, tmp_path: Path) -> None:
    whole = losses_of(tmp_path, optimizer)
    assert losses_of(tmp_path, optimizer, stops=True) == whole
    assert losses_of(tmp_path, "adamw") != whole


@pytest.mark.parametrize(
    ("optimizer", "stage"), [("muon", 0), ("adamw8bit", 0), ("adamw8bit", 1), ("adamw8bit", 2)]
)
def test_deepspeed_equals_plain_torch(optimizer: str, stage: int, tmp_path: Path) -> None:
    expected = losses_of(tmp_path, optimizer)
    found = losses_of(tmp_path, optimizer, "deepspeed", stage)
    # 8-bit numbers share a scale by blocks, and those are cut otherwise where tensors lie flat one after another
    close = MUON if optimizer == "muon" else EIGHT_BITS if stage else DEEPSPEED
    assert found == pytest.approx(expected, abs=close)
    assert losses_of(tmp_path, optimizer, "deepspeed", stage, stops=True) == pytest.approx(found, abs=SAME)


# --- refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "stage", "words"),
    [
        ({"optimizer": "muon"}, 1, r"ZeRO-1 gives the optimiser flat pieces(.|\n)*deepspeed=zero0"),
        ({"optimizer": "muon"}, 3, "ZeRO-3 gives"),
        ({"optimizer": "adamw8bit"}, 3, r"does not go with ZeRO-3(.|\n)*deepspeed=zero2"),
        ({"layer_drop": 0.1}, 3, r"train.layer_drop=0.1 does not go with ZeRO-3"),
        ({"compile": True}, 3, "train.compile=true does not go with ZeRO-3"),
        ({"compile": True, "token_drop": 0.1}, 0, "compile anew"),
        ({"liger": True}, 0, "'liger_kernel', which is not installed(.|\n)*pip install liger-kernel"),
        ({"attention": "flash_attention_2"}, 0, "'flash_attn', which is not installed"),
    ],
)
def test_what_cannot_run_is_refused_before_any_work(change: dict[str, Any], stage: int, words: str) -> None:
    config = replace(CONFIG, engine="deepspeed", **change)
    with pytest.raises(ConfigError, match=words) as error:
        check_fits(config, {"zero_optimization": {"stage": stage}})
    assert error.value.exit_code == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_some_options_need_a_gpu() -> None:
    with pytest.raises(ConfigError, match=r"needs a GPU(.|\n)*train.optimizer=adamw8bit"):
        check_fits(replace(CONFIG, optimizer="paged_adamw8bit"), {})
    with pytest.raises(ConfigError, match=r"compiles for minutes(.|\n)*train.compile=false"):
        check_fits(replace(CONFIG, compile=True), {})


def test_moments_need_an_optimiser_that_keeps_them() -> None:
    with pytest.raises(ConfigError, match=r"train.optimizer=muon does not keep(.|\n)*optimizer_state=reset"):
        check_moments(replace(CONFIG, optimizer="muon"), "grow")
    with pytest.raises(ConfigError, match=r"train.rewarm_steps=5(.|\n)*operator.optimizer_state=keep_old"):
        check_moments(replace(CONFIG, rewarm_steps=5), "grow")
    with pytest.raises(ConfigError, match="rewarm_steps=5 is a way of AdamW"):
        check(replace(CONFIG, rewarm_steps=5, optimizer="muon"), "train")
    check_moments(replace(CONFIG, rewarm_steps=5), "keep_old")
