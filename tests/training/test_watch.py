"""Steps that cannot be taken, losses that jump, data that is left out: judged, logged, and resumed as never stopped."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ligo.core.errors import NumericsError
from ligo.families.base import family_of
from ligo.tracking.jsonl import JsonlTracker, read_records
from ligo.training import loop
from ligo.training.config import TrainConfig, batch_shape
from ligo.training.engines import make_engine
from ligo.training.meter import PEAK_FLOPS, peak_flops
from ligo.training.models import fresh_model
from ligo.training.objectives import CausalLM
from ligo.training.schedule import num_steps
from ligo.training.watch import BAD, OK, SCALED, SPIKE, Health, merged
from tests.conftest import tiny_config
from tests.training.arms import CONFIG, LENGTH, VALIDATION, SyntheticWindows, records, run_arm

FAMILY = family_of(tiny_config())
LONG = replace(CONFIG, max_tokens=20 * 128, save_every=5, evaluate_every=20)


def judge(
    health: Health, loss: float, norm: float | None = 1.0, factor: float = 2.0, fp16: bool = False
) -> str:
    return health.judge(loss, norm, spike_factor=factor, scales_losses=fp16)


def test_a_loss_far_above_the_median_is_a_spike_and_a_falling_one_is_none() -> None:
    health = Health()
    assert [judge(health, loss) for loss in (9, 8, 7, 6, 5, 5, 5, 5, 5)] == [OK] * 9
    assert judge(health, 9.9) == OK
    assert judge(health, 11.1) == SPIKE
    assert judge(health, 100.0, factor=0.0) == OK
    assert judge(Health(), 100.0) == OK  # nothing to compare it with


def test_steps_that_are_not_finite_are_counted_and_an_fp16_scale_that_is_too_large_ends_no_run() -> None:
    health = Health()
    assert [judge(health, loss) for loss in (math.nan, math.inf)] == [BAD, BAD]
    assert judge(health, 1.0, norm=math.inf) == BAD
    assert (health.skipped_steps, health.bad_in_a_row) == (3, 3)
    assert judge(health, 1.0, norm=None) == OK
    assert health.bad_in_a_row == 0
    assert judge(health, 1.0, norm=math.inf, fp16=True) == SCALED
    assert judge(health, math.nan, fp16=True) == BAD
    assert (health.skipped_steps, health.bad_in_a_row) == (5, 1)


def test_the_batches_left_out_are_jumped_over() -> None:
    health = Health()
    health.leave_out(3, 5)
    assert [health.batch_of(step) for step in range(5)] == [0, 1, 2, 5, 6]
    health.leave_out(6, 8)
    assert [health.batch_of(step) for step in range(6)] == [0, 1, 2, 5, 8, 9]
    health.leave_out(5, 6)
    assert health.left_out == [(3, 8)]
    assert merged([(4, 6), (0, 2), (2, 3), (5, 9)]) == [(0, 3), (4, 9)]


class Poisoned(CausalLM):
    """Windows that begin with 0 give a loss of NaN, those that begin with 1 ten times the loss."""

    def loss(self, run: Any, batch: torch.Tensor) -> torch.Tensor:
        loss = super().loss(run, batch)
        first = int(batch[:, 0].min())
        return loss * (math.nan if first == 0 else 10.0 if first == 1 else 1.0)


class Windows(SyntheticWindows):
    def __init__(self, nan: tuple[int, ...] = (), jump: tuple[int, ...] = ()) -> None:
        self.nan, self.jump, self.asked = nan, jump, list[int]()

    def __getitem__(self, step: int) -> np.ndarray:
        self.asked.append(step)
        windows = np.maximum(super().__getitem__(step), 2)
        windows[0, 0] = 0 if step in self.nan else 1 if step in self.jump else windows[0, 0]
        return windows


class Killed(JsonlTracker):
    def __init__(self, folder: Path, at: int | None) -> None:
        super().__init__(folder / "metrics.jsonl", folder / "summary.json")
        self._at = at

    def log(self, record: dict[str, Any]) -> None:
        super().log(record)
        if record["step"] == self._at:
            raise KeyboardInterrupt


def run(
    folder: Path,
    windows: SyntheticWindows,
    config: TrainConfig = LONG,
    kill_at: int | None = None,
    stage: int = 0,
) -> tuple[loop.Progress, dict[str, torch.Tensor]]:
    folder.mkdir(exist_ok=True)
    keys = {"zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 10}}
    engine = make_engine(
        fresh_model(tiny_config(), 0), Poisoned(FAMILY), config, batch_shape(config, LENGTH, 1), keys
    )
    state = loop.train(
        engine, arm="grown", batches=windows, validation=VALIDATION, config=config, flops_per_token=10.0,
        tracker=Killed(folder, kill_at), checkpoints=folder / "checkpoints", config_hash="c", run_id="r",
    )  # fmt: skip
    weights = engine.weights()
    engine.close()
    return state, weights


def test_a_bad_batch_is_left_out_counted_and_changes_nothing(tmp_path: Path) -> None:
    windows = Windows(nan=(4,))
    run(tmp_path, windows)
    found = {r["step"]: r for r in read_records(tmp_path / "metrics.jsonl")}
    assert [found[s]["skipped_steps"] for s in (4, 5, 6, 20)] == [0, 1, 1, 1]
    assert "train/loss" not in found[5]
    assert math.isfinite(found[6]["train/loss"])
    assert found[6]["grad_norm_clipped"] == min(found[6]["grad_norm"], LONG.clip)


def test_plain_torch_is_bit_equal_across_a_bad_batch() -> None:
    engine = make_engine(
        fresh_model(tiny_config(), 0), Poisoned(FAMILY), CONFIG, batch_shape(CONFIG, LENGTH, 1), {}
    )
    windows = Windows(nan=(3,))
    for step in range(3):
        engine.step(windows[step], 1e-3)
    before = {name: weight.clone() for name, weight in engine.weights().items()}
    moments = {n: (a.clone(), b.clone()) for n, (a, b) in engine.moments()[1].items()}
    loss, _ = engine.step(windows[3], 1e-3)
    assert math.isnan(loss)
    assert engine.moments()[0] == 3
    assert all(torch.equal(weight, before[name]) for name, weight in engine.weights().items())
    for name, pair in engine.moments()[1].items():
        assert all(torch.equal(one, other) for one, other in zip(pair, moments[name], strict=True))


@pytest.mark.parametrize("stage", [None, 0, 1, 2, 3])
@pytest.mark.parametrize("row", [0, 7])
def test_a_bad_micro_batch_leaves_no_trace_in_the_steps_after_it(stage: int | None, row: int) -> None:
    config = replace(CONFIG, engine="torch" if stage is None else "deepspeed", micro_batch_tokens=2 * LENGTH)
    keys = {"zero_optimization": {"stage": stage or 0, "stage3_param_persistence_threshold": 10}}

    def make() -> Any:
        shape = batch_shape(config, LENGTH, 1)
        return make_engine(fresh_model(tiny_config(), 0), Poisoned(FAMILY), config, shape, keys)

    met, spared, windows = make(), make(), Windows()
    for engine in (met, spared):
        engine.step(windows[0], 1e-3)
    bad = windows[1].copy()
    bad[row, 0] = 0
    loss, _ = met.step(bad, 1e-3)
    assert math.isnan(loss)
    for step in (2, 3):
        assert met.step(windows[step], 1e-3) == spared.step(windows[step], 1e-3)
    for engine in (met, spared):
        engine.close()


def test_three_bad_steps_in_a_row_end_the_run_also_across_a_stop(tmp_path: Path) -> None:
    windows = Windows(nan=(3, 4, 5))
    with pytest.raises(
        NumericsError, match=r"the loss of grown is nan at step 6; 3 steps in a row(.|\n)*train.lr="
    ) as error:
        run(tmp_path / "whole", windows)
    assert error.value.exit_code == 6
    config = replace(LONG, save_every=1)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", windows, config, kill_at=5)
    with pytest.raises(NumericsError, match="at step 6"):
        run(tmp_path / "stopped", windows, config)
    run(tmp_path / "two", Windows(nan=(3, 4, 6, 7)))


def test_a_spike_goes_back_to_the_checkpoint_and_leaves_the_data_since_then_out(tmp_path: Path) -> None:
    config = replace(LONG, spike_factor=2.0, on_spike="rewind")
    windows = Windows(jump=(12,))
    state, weights = run(tmp_path, windows, config)
    # steps 10 on take the batches from 13 on; the batch after the last is made ahead, and left
    assert windows.asked == [*range(13), *range(13, 24)]
    steps = [r["step"] for r in read_records(tmp_path / "metrics.jsonl") if "train/loss" in r]
    assert steps == list(range(1, 21))
    (back,) = [r for r in read_records(tmp_path / "metrics.jsonl") if "spiked_at" in r]
    assert (back["step"], back["spiked_at"], back["rewinds"]) == (10, 13, 1)
    assert state.tokens == 23 * 128  # the steps thrown away were paid for
    assert state.step == num_steps(config) == 20

    straight = Windows()
    order = [*range(10), *range(13, 23)]
    engine = make_engine(
        fresh_model(tiny_config(), 0), Poisoned(FAMILY), config, batch_shape(config, LENGTH, 1), {}
    )
    for step, batch in enumerate(order):
        engine.step(straight[batch], loop.learning_rate(config, step))
    assert all(torch.equal(weight, weights[name]) for name, weight in engine.weights().items())


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_deepspeed_goes_back_too(stage: int, tmp_path: Path) -> None:
    config = replace(LONG, spike_factor=2.0, on_spike="rewind")
    _, expected = run(tmp_path / "torch", Windows(jump=(12,)), config)
    _, found = run(tmp_path / "zero", Windows(jump=(12,)), replace(config, engine="deepspeed"), stage=stage)
    for name, weight in found.items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-5)


class TwoSources(SyntheticWindows):
    source_names = ("books", "code", "none of these")

    def sources(self, step: int) -> np.ndarray:
        return np.arange(8) % 2


def test_the_loss_of_every_source_is_logged_at_evaluations(tmp_path: Path) -> None:
    run(tmp_path, TwoSources(), replace(LONG, evaluate_every=10))
    found = {r["step"]: r for r in read_records(tmp_path / "metrics.jsonl")}
    keys = {"train/loss/books", "train/loss/code"}
    assert [keys <= found[step].keys() for step in (9, 10, 11, 20)] == [False, True, False, True]
    assert "train/loss/none of these" not in found[10]

    engine = make_engine(
        fresh_model(tiny_config(), 0), Poisoned(FAMILY), LONG, batch_shape(LONG, LENGTH, 1), {}
    )
    both = loop.source_losses(engine, TwoSources(), 3, rows_at_once=3)
    together = loop.evaluate(engine, [TwoSources()[3]])["loss"]
    assert both["train/loss/books"] != both["train/loss/code"]
    assert sum(both.values()) / 2 == pytest.approx(together)


@pytest.mark.parametrize("kill_at", [11, 16])
def test_a_run_that_went_back_and_was_killed_equals_one_that_was_not(kill_at: int, tmp_path: Path) -> None:
    config = replace(LONG, spike_factor=2.0, on_spike="rewind")
    _, expected = run(tmp_path / "whole", Windows(jump=(12,)), config)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", Windows(jump=(12,)), config, kill_at=kill_at)
    _, found = run(tmp_path / "killed", Windows(jump=(12,)), config)
    assert all(torch.equal(weight, expected[name]) for name, weight in found.items())
    of_steps = [[r for r in records(tmp_path / n) if "train/loss" in r] for n in ("whole", "killed")]
    losses = [[(r["step"], r["train/loss"]) for r in each] for each in of_steps]
    assert losses[0] == losses[1]


def test_a_spike_is_only_said_where_that_is_asked_and_spikes_without_end_end_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "warn", Windows(jump=(12,)), replace(LONG, spike_factor=2.0))
    assert "the loss of grown spiked to" in capsys.readouterr().err
    config = replace(LONG, spike_factor=2.0, on_spike="rewind")
    with pytest.raises(NumericsError, match=r"spiked again at step 11, after 10 returns"):
        run(tmp_path / "rewind", Windows(jump=tuple(range(10, 100))), config)


def test_no_gpu_no_utilisation_and_peaks_are_those_of_dense_half_precision() -> None:
    assert PEAK_FLOPS["A100"] == 312e12  # with sparsity data sheets say twice as much
    names = list(PEAK_FLOPS)
    for position, name in enumerate(names):
        assert not any(earlier in name for earlier in names[:position]), f"{name} is never reached"
    if not torch.cuda.is_available():
        assert peak_flops() is None


def test_speed_and_memory_are_logged(tmp_path: Path) -> None:
    run_arm(tmp_path)
    last = read_records(tmp_path / "metrics.jsonl")[-1]
    assert last["tokens_per_s"] > 0
    assert last["memory_bytes"] > 2**20
    assert last["mfu"] is None or 0 < last["mfu"] < 1
