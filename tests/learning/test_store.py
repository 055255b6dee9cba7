"""The frozen small model is held in as little as is asked for, and never more of it in float than is in use."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ligo import grow
from ligo.core.errors import CheckpointError, ConfigError
from ligo.families.base import family_of
from ligo.growth.execute import TensorMaker
from ligo.learning import forward
from ligo.learning.config import HELD, LearnConfig, check
from ligo.learning.cost import choose_forward
from ligo.learning.forward import GrownFunction
from ligo.learning.functional import LearnedMaps
from ligo.learning.store import check_quantisable, is_quantised, open_store
from ligo.operators.config import OperatorConfig
from ligo.operators.noise_level import NO_NOISE, NoiseLevel
from tests.conftest import tiny_config
from tests.learning.test_learning import WHOLE, learn, loss_of, plan_with, small_weights, windows
from tests.test_commands import BUDGET, SMALL, TARGET, run

CPU = torch.device("cpu")
NF4_ERROR = 0.11  # of normally distributed weights, relative in norm; 0.092 in blocks of 64
BF16_LOSS = 5e-3  # bfloat16 keeps three digits


def store_of(how: str, small: dict[str, Tensor], family: Any) -> Any:
    return open_store(LearnConfig(small=how), family, small.__getitem__, CPU)


def bytes_of(store: Any) -> int:
    return sum(t.untyped_storage().nbytes() for held in store.held.values() for t in held.values())


@pytest.mark.parametrize("how", HELD)
def test_every_way_gives_the_small_model_again(how: str) -> None:
    plan = plan_with(OperatorConfig(init="stack"), tied=False)
    small = small_weights(plan)
    store = store_of(how, small, plan.small)
    for spec in plan.small.tensors:
        found, stored = store.read(spec.name), small[spec.name]
        assert found.dtype == torch.float32 and found.shape == stored.shape
        if how in ("fp32", "offload") or len(spec.axes) == 1:
            assert torch.equal(found, stored), spec.name
        elif how == "bf16" or not is_quantised(spec):
            assert torch.equal(found, stored.bfloat16().float()), spec.name
        else:
            assert 0 < float((found - stored).norm() / stored.norm()) < NF4_ERROR, spec.name


@pytest.mark.parametrize("shape", [(32, 32), (64, 48), (64, 96), (40, 100), (7, 13)])
def test_nf4_is_as_near_for_rows_of_any_length(shape: tuple[int, int]) -> None:
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 2}
    family = family_of(tiny_config(hidden_size=shape[1], intermediate_size=shape[0], **heads))
    small = {spec.name: torch.randn(spec.shape(family.spaces)) for spec in family.tensors}
    name = "model.layers.0.mlp.up_proj.weight"
    found = store_of("nf4", small, family).read(name)
    assert float((found - small[name]).norm() / small[name].norm()) < NF4_ERROR


def test_what_is_held_is_as_small_as_it_says() -> None:
    family = family_of(tiny_config(hidden_size=256, intermediate_size=1024))
    small = {spec.name: torch.randn(spec.shape(family.spaces)) for spec in family.tensors}
    matrices = sum(t.numel() for n, t in small.items() if is_quantised(family.by_name[n]))
    others = sum(t.numel() for t in small.values()) - matrices
    held = {how: bytes_of(store_of(how, small, family)) for how in HELD}
    assert held["fp32"] == 4 * (matrices + others)
    assert held["bf16"] < 0.51 * held["fp32"]
    # half a byte, a quantised scale for each block, and two tables of 272 numbers for each matrix
    assert held["nf4"] < (0.5 + 1.1 / 64) * matrices + 2.1 * others + 4 * 300 * 14
    assert held["offload"] < 0.01 * held["fp32"]


class Alive:
    """Counts the numbers in tensors that are still referred to."""

    def __init__(self, make: Callable[..., Tensor]) -> None:
        self.make, self.most, self.largest = make, 0, 0
        self._made: list[tuple[weakref.ref[Tensor], int]] = []

    def __call__(self, *args: Any) -> Tensor:
        tensor = self.make(*args)
        self._made.append((weakref.ref(tensor), tensor.numel()))
        self.most, self.largest = max(self.most, self.now()), max(self.largest, tensor.numel())
        return tensor

    def now(self) -> int:
        self._made = [(ref, size) for ref, size in self._made if ref() is not None]
        return sum(size for _, size in self._made)


@pytest.mark.parametrize("recompute", ["weights", "layers"])
@pytest.mark.parametrize("depth_lr", [2e-3, 0.0])
@pytest.mark.parametrize("how", ["nf4", "offload"])
def test_a_step_keeps_no_float_copy_of_the_small_model(how: str, depth_lr: float, recompute: str) -> None:
    config = OperatorConfig(init="stack", depth_lr=depth_lr)
    plan = plan_with(config, tied=False, **{**WHOLE, "num_layers": 6})
    small = small_weights(plan)
    if how == "offload":
        small = {name: tensor.bfloat16() for name, tensor in small.items()}  # so that float32 is a copy
    read, learned = Alive(store_of(how, small, plan.small).read), LearnedMaps(plan, config)
    function = GrownFunction(plan, recompute=recompute)
    chosen = choose_forward(plan, learned(), tokens=128, sequence_length=16, wanted="hybrid")
    gc.disable()  # what only cycles hold would hide
    try:
        loss = loss_run(function(learned(), read, chosen.outside))
        assert read.now() <= 96 * 32  # the table that the tokens were looked up in
        loss.backward()
    finally:
        gc.enable()
    assert read.most <= 96 * 32 + 2 * read.largest
    assert all(p.grad is not None for p in learned.parameters())


def loss_run(run: Callable[..., Any]) -> Tensor:
    logits = run(input_ids=torch.from_numpy(windows(0)[:, :-1]), use_cache=False).logits
    return (logits**2).mean()


def test_what_would_be_written_is_evaluated_layer_by_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_with(OperatorConfig(init="stack"), tied=False, **{**WHOLE, "num_layers": 8})
    small, alive = small_weights(plan), []

    class Recorded(TensorMaker):
        def make(self, job: Any) -> Tensor:
            alive.append(Alive(super().make)) if not alive else None
            alive[0].make = super().make
            return alive[0](job)

    monkeypatch.setattr(forward, "TensorMaker", Recorded)
    with torch.no_grad():
        found = loss_run(GrownFunction(plan).as_written(plan.maps, small.__getitem__, NoiseLevel()))
    assert found.isfinite()
    outside = 2 * 96 * 64  # embedding and head
    a_layer = (plan.target.num_parameters - outside) // 8
    assert alive[0].most <= outside + 1.1 * a_layer
    assert alive[0].now() == 0


@pytest.mark.parametrize("how", HELD)
def test_learning_against_every_way_lowers_the_loss_of_what_is_written(how: str) -> None:
    plan = plan_with(OperatorConfig(init="stack"))
    small = {name: tensor.bfloat16() for name, tensor in small_weights(plan).items()}
    reference, _ = learn(plan, small=small, init="stack")
    learned, log = learn(plan, LearnConfig(small=how), small=small, init="stack")
    assert learned.small == how
    assert learned.start_loss == pytest.approx(reference.start_loss, rel=1e-6)  # of the weights as they are
    if how == "nf4":
        assert log[0]["eval/loss"] != pytest.approx(learned.start_loss, rel=1e-4)
        assert learned.best_loss < learned.start_loss - 0.05
    else:  # the small model is stored in bfloat16: nothing was lost
        assert log[-1]["train/loss"] == pytest.approx(
            [r["train/loss"] for r in learn(plan, small=small, init="stack")[1] if "train/loss" in r][-1]
        )
        assert learned.best_loss == pytest.approx(reference.best_loss, rel=1e-6)


def test_bfloat16_arithmetic_leaves_maps_and_their_gradients_in_float32() -> None:
    plan = plan_with(OperatorConfig(init="stack"))
    full, _ = learn(plan, init="stack")
    half, _ = learn(plan, LearnConfig(precision="bf16"), init="stack")
    assert half.best_loss != full.best_loss
    assert half.best_loss == pytest.approx(full.best_loss, rel=BF16_LOSS)
    assert all(tensor.dtype == torch.float32 for tensor in half.state.values())


def test_depth_that_is_not_learned_stays_as_it_starts_and_reads_one_layer() -> None:
    config = OperatorConfig(init="stack", depth_lr=0.0)
    plan = plan_with(config)
    learned, small = LearnedMaps(plan, config), small_weights(plan)
    assert not len(learned.depth) and not learned().layers.learned
    names: list[str] = []

    def read(name: str) -> Tensor:
        names.append(name)
        return small[name]

    with torch.no_grad():
        outside = choose_forward(plan, learned(), tokens=8, sequence_length=8, wanted="materialise").outside
        loss_run(GrownFunction(plan)(learned(), read, outside))
    assert names.count("model.layers.0.self_attn.q_proj.weight") == 2  # of three target layers: 0, 1, 0
    assert learn(plan, init="stack", depth_lr=0.0)[0].best_loss < float(
        loss_of(plan, _start(plan, small)).detach()
    )


def _start(plan: Any, small: dict[str, Tensor]) -> dict[str, Tensor]:
    return {job.spec.name: TensorMaker(plan, plan.maps, small.__getitem__, torch.float32, NO_NOISE, 0).make(job)
            for job in plan.jobs}  # fmt: skip


def test_matrices_that_cannot_be_quantised_are_refused() -> None:
    family = family_of(tiny_config())
    dtypes = {spec.name: "F32" for spec in family.tensors}
    check_quantisable(family, dtypes)
    name = "model.layers.1.mlp.up_proj.weight"
    with pytest.raises(CheckpointError, match=f"{name} is stored as I32(.|\n)*learn.small=offload"):
        check_quantisable(family, dtypes | {name: "I32"})
    few = family_of(tiny_config(hidden_size=4, intermediate_size=8, num_attention_heads=2, num_key_value_heads=1,
                                head_dim=2))  # fmt: skip
    with pytest.raises(
        CheckpointError, match="blocks of 64 numbers, and the largest in this small model has 32"
    ):
        check_quantisable(few, dtypes)


def test_nf4_without_bitsandbytes_is_refused_before_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    code = run(grow, *SMALL, *TARGET, *BUDGET, "learn.small=nf4", f"run.dir={tmp_path / 'run'}")
    assert code == 2
    assert "needs the package 'bitsandbytes'" in (words := capsys.readouterr().err)
    assert "pip install 'ligo[nf4]'" in words
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"small": "int8"}, "learn.small=int8 is not one of fp32, bf16, nf4, offload"),
        ({"small": "nf"}, "Try: learn.small=nf4"),
        ({"precision": "fp16"}, "learn.precision=fp16(.|\n)*Try: learn.precision=bf16"),
        ({"micro_batch_tokens": 0}, "learn.micro_batch_tokens=0 must be at least 1"),
    ],
)
def test_values_that_are_no_choice_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check(LearnConfig(**change))
