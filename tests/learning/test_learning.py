"""Learning begins at the start's function, never ends above its loss, and is written as it was learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ligo.core.errors import CheckpointError
from ligo.growth.execute import grow_tensors, sources
from ligo.growth.plan import GrowthPlan, plan_growth
from ligo.learning.config import LearnConfig
from ligo.learning.fit import LearnedOperator, learn_operator, warmup_cosine
from ligo.learning.functional import LearnedMaps, TargetFunction, detached, grown_parameters
from ligo.learning.state import load_maps, save_operator
from ligo.operators.config import FORMS, STARTS, OperatorConfig, build
from ligo.operators.maps import GrowthMaps
from ligo.operators.noise_level import NO_NOISE, NoiseLevel
from ligo.training.objectives import make_objective
from tests.conftest import random_model, tiny_config
from tests.families.tiny_others import OTHERS
from tests.growing import lively_model, on_disk_weights

WANTED = dict(hidden_size=48, num_layers=3, num_heads=6, num_kv_heads=3, ffn_size=64)
WHOLE = dict(hidden_size=64, num_layers=4, num_heads=8, num_kv_heads=4, ffn_size=96)


def plan_with(config: OperatorConfig, *, tied: bool = True, **wanted: int) -> GrowthPlan:
    small = tiny_config(tie_word_embeddings=tied)
    return plan_growth(small, wanted or WANTED, build(config))


def small_weights(plan: GrowthPlan) -> dict[str, torch.Tensor]:
    return random_model(plan.small_config, "float32").state_dict()


def windows(step: int) -> np.ndarray:
    """Text with something to learn: each token is followed by its successor, mostly."""
    rng = np.random.default_rng(step)
    starts = rng.integers(0, 96, (8, 1))
    return (starts + np.arange(17)) % 96


def loss_of(plan: GrowthPlan, weights: dict[str, torch.Tensor], step: int = 0) -> torch.Tensor:
    return make_objective(plan.target).loss(TargetFunction(plan)(weights), torch.from_numpy(windows(step)))


def learned_weights(
    plan: GrowthPlan, config: OperatorConfig, small: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    maps = LearnedMaps(plan, config)()
    return grown_parameters(plan, maps, sources(plan, maps, small.__getitem__))


def learning(**changes: Any) -> OperatorConfig:
    return OperatorConfig(
        **{"name": "ligo", "init": "exact", "steps": 12, "evaluate_every": 4, "eta": 0.3, **changes}
    )


def learn(
    plan: GrowthPlan,
    how: LearnConfig | None = None,
    small: dict[str, torch.Tensor] | None = None,
    deepspeed: dict[str, Any] | None = None,
    **changes: Any,
) -> tuple[LearnedOperator, list[dict[str, Any]]]:
    log: list[dict[str, Any]] = []
    learned = learn_operator(
        plan, (small or small_weights(plan)).__getitem__, windows, [windows(100), windows(101)], learning(**changes),
        how or LearnConfig(), log.append, objective=make_objective(plan.target), seed=0,
        deepspeed=deepspeed,
    )  # fmt: skip
    return learned, log


SAME_LOSS = 1e-5  # float32 rounding of a loss of about 5


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("start", STARTS)
def test_learning_begins_at_the_start(start: str, tied: bool) -> None:
    config = OperatorConfig(init=start)
    wanted = WHOLE if start in ("hypercloning", "staged") else WANTED
    plan = plan_with(config, tied=tied, **wanted)
    small = small_weights(plan)
    with torch.no_grad():
        at_start = grown_parameters(plan, plan.maps, sources(plan, plan.maps, small.__getitem__))
        learned = learned_weights(plan, config, small)
    # gains are folded into their readers in one and copied in the other: the same function
    expected, found = float(loss_of(plan, at_start)), float(loss_of(plan, learned))
    assert found == pytest.approx(expected, abs=SAME_LOSS)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("per_layer", [False, True])
def test_every_form_begins_at_the_start_and_has_parameters_that_can_move(form: str, per_layer: bool) -> None:
    config = learning(init="stack", form=form, per_layer=per_layer, rank=4)
    plan = plan_with(config)
    learned, small = LearnedMaps(plan, config), small_weights(plan)
    weights = grown_parameters(plan, learned(), sources(plan, learned(), small.__getitem__))
    start = grown_parameters(plan, plan.maps, sources(plan, plan.maps, small.__getitem__))
    loss = loss_of(plan, weights)
    assert float(loss.detach()) == pytest.approx(float(loss_of(plan, start)), abs=SAME_LOSS)
    loss.backward()
    moving = [n for n, p in learned.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    waiting = {"v", "d"}  # multiplied by what is zero at first
    assert {n for n, _ in learned.named_parameters() if n.split(".")[-1] not in waiting} == set(moving)


def test_few_parameters_are_few() -> None:
    plan = plan_with(learning())
    sizes = {
        form: sum(p.numel() for p in LearnedMaps(plan, learning(form=form, rank=2)).expand.parameters())
        for form in FORMS
    }
    assert sizes["dense"] > sizes["new_rows"] > sizes["low_rank"] > sizes["vera"]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_written_as_it_was_learned(form: str, tmp_path: Path) -> None:
    plan = plan_with(OperatorConfig(init="stack"))
    config = learning(init="stack", form=form, per_layer=True, noise=0.0)
    learned, _ = learn(plan, init="stack", form=form, per_layer=True, noise=0.0)
    save_operator(tmp_path / "operator.safetensors", plan, config, learned)
    loaded = load_maps(tmp_path / "operator.safetensors", plan, config)
    small = small_weights(plan)
    with torch.no_grad():
        in_learning = grown_parameters(plan, learned.maps, sources(plan, learned.maps, small.__getitem__))
    written = dict(grow_tensors(plan, loaded, small.__getitem__, dtype=torch.float32, noise=NO_NOISE, seed=0))
    assert learned.best_step > 0
    for name, tensor in written.items():
        assert torch.equal(tensor, in_learning[name]), name  # bit for bit


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "opt"])
def test_layer_norm_families_learn_too(family: str) -> None:
    """Their gains cannot be folded: they are copied as the start copies them."""
    config = learning(init="stack")
    plan = plan_growth(
        OTHERS[family], dict(hidden_size=64, num_layers=4, num_heads=8, ffn_size=96), build(config)
    )
    small = on_disk_weights(lively_model(plan.small, "float32"))
    learned, _ = learn(plan, small=small, init="stack", steps=16)
    assert learned.best_loss < learned.start_loss - 0.02


def test_the_original_recipe_ties_readers_and_gains_to_writers_and_respects_no_heads() -> None:
    config = learning(init="ligo_original", form="new_rows", lr=1e-2)
    plan = plan_with(config, tied=False)
    assert not plan.exactness.exact
    learned = LearnedMaps(plan, config)
    maps = learned()
    for layer in range(3):
        for key in ("heads*query_dim", "kv_heads*key_dim", "kv_heads*value_dim", "ffn"):
            space_map = maps.space(key, layer)
            assert space_map is not None
            assert space_map.reduce.values is not space_map.expand
            torch.testing.assert_close(space_map.reduce.values, space_map.expand.values)
            torch.testing.assert_close(space_map.gain.values, space_map.expand.values)
    rows = maps.spaces["residual"].expand.matrix()
    np.testing.assert_array_equal(rows[:32], np.eye(32))
    np.testing.assert_allclose(rows[32:].sum(axis=1), 1, atol=1e-6)
    assert set(learned.depth) >= {"input_layernorm", "self_attn_q_proj", "mlp_down_proj"}
    assert {group["lr"] for group in learned.parameter_groups(config)[1][1:]} == {1e-2}
    after, _ = learn(plan, init="ligo_original", form="new_rows", lr=1e-2)
    assert after.best_loss < after.start_loss


def test_every_map_gets_a_gradient() -> None:
    config = OperatorConfig(init="exact")
    plan = plan_with(config)
    learned, small = LearnedMaps(plan, config), small_weights(plan)
    loss = loss_of(plan, grown_parameters(plan, learned(), sources(plan, learned(), small.__getitem__)))
    loss.backward()
    silent = [name for name, p in learned.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_gradient_of_the_residual_map_agrees_with_finite_differences() -> None:
    config = OperatorConfig(init="exact")
    plan = plan_with(config)
    small = {name: tensor.double() for name, tensor in small_weights(plan).items()}
    learned = LearnedMaps(plan, config).double()
    parameter = learned.expand["residual"].values

    def value() -> torch.Tensor:
        weights = grown_parameters(plan, learned(), sources(plan, learned(), small.__getitem__))
        return sum((w * torch.linspace(-1, 1, w.numel()).reshape(w.shape)).sum() for w in weights.values())

    value().backward()
    step = 1e-6
    with torch.no_grad():
        for index in ((0, 0), (40, 3)):
            parameter[index] += step
            above = float(value())
            parameter[index] -= 2 * step
            below = float(value())
            parameter[index] += step
            assert float(parameter.grad[index]) == pytest.approx((above - below) / (2 * step), rel=1e-5)


def test_learning_lowers_the_loss_and_counts_its_cost() -> None:
    plan = plan_with(OperatorConfig(init="stack"))
    learned, log = learn(plan, init="stack")
    assert learned.best_loss < learned.start_loss - 0.05
    assert learned.best_step > 0
    assert learned.tokens == 12 * 8 * 16
    flops = [record["flops"] for record in log]
    assert flops == sorted(flops)
    assert learned.flops > flops[-1]  # the evaluation that checked the noise is charged too
    assert [r["step"] for r in log if "eval/loss" in r] == [0, 4, 8, 12]


def test_learning_that_makes_things_worse_leaves_the_start() -> None:
    plan = plan_with(OperatorConfig(init="exact"))
    learned, _ = learn(plan, eta=50.0)
    assert learned.best_step == 0
    assert learned.best_loss == learned.start_loss
    assert learned.maps is plan.maps


def loss_as_written(plan: GrowthPlan, maps: GrowthMaps, noise: float = 1.0) -> float:
    """Of the stock class, on the validation windows of `learn`."""
    read, level = small_weights(plan).__getitem__, NoiseLevel(noise)
    written = dict(grow_tensors(plan, maps, read, dtype=torch.float32, noise=level, seed=0))
    model = random_model(plan.target_config, "float32")
    assert model.load_state_dict(written, strict=False).unexpected_keys == []
    objective = make_objective(plan.target)
    with torch.no_grad():
        return sum(float(objective.loss(model, torch.from_numpy(windows(i)))) for i in (100, 101)) / 2


def test_a_learned_model_loads_into_the_stock_class_with_the_loss_that_was_kept() -> None:
    plan = plan_with(OperatorConfig(init="stack"))
    learned, _ = learn(plan, init="stack")
    assert loss_as_written(plan, learned.maps) == pytest.approx(learned.best_loss, abs=1e-5)


def test_noise_that_shows_is_in_the_losses_before_and_after() -> None:
    plan = plan_with(OperatorConfig(init="bert2bert"))
    learned, _ = learn(plan, init="bert2bert", noise=2.0)
    assert learned.start_loss == pytest.approx(loss_as_written(plan, plan.maps, 2.0), abs=1e-5)
    assert learned.best_loss == pytest.approx(loss_as_written(plan, learned.maps, 2.0), abs=1e-5)
    assert learned.quiet_loss == pytest.approx(loss_as_written(plan, learned.maps, 0.0), abs=1e-5)
    assert learned.quiet_loss < learned.best_loss - 0.5 < learned.start_loss - 0.5


def test_noise_that_drowns_what_was_learned_leaves_the_start_and_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan = plan_with(OperatorConfig(init="bert2bert"))
    learned, _ = learn(plan, init="bert2bert", noise=16.0)
    assert learned.best_step == 0 and learned.maps is plan.maps
    assert learned.best_loss == learned.start_loss > learned.quiet_loss + 0.5
    assert "with the noise that is written" in capsys.readouterr().err


def test_an_operator_of_another_plan_or_form_is_refused(tmp_path: Path) -> None:
    config = learning(init="stack")
    plan, other = plan_with(config), plan_with(config, ffn_size=70)
    learned, _ = learn(plan, init="stack", steps=1)
    save_operator(tmp_path / "operator.safetensors", plan, config, learned)
    for wrong_plan, wrong_config in ((other, config), (plan, learning(init="stack", form="vera"))):
        with pytest.raises(CheckpointError, match="learned for another growth"):
            load_maps(tmp_path / "operator.safetensors", wrong_plan, wrong_config)
    (tmp_path / "broken.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(CheckpointError, match="cannot read the operator broken.safetensors"):
        load_maps(tmp_path / "broken.safetensors", plan, config)


def test_step_sizes_follow_the_shape_of_each_map() -> None:
    config = OperatorConfig(init="exact", eta=0.1)
    learned = LearnedMaps(plan_with(config), config)
    _, (depth, *maps) = learned.parameter_groups(config)
    assert depth["lr"] == 2e-3
    for group in maps:
        rows, columns = group["params"][0].shape
        assert group["lr"] * (rows * columns) ** 0.5 == pytest.approx(0.1)


def test_a_step_of_muon_has_the_spectral_norm_eta_and_is_nearly_orthogonal() -> None:
    config = OperatorConfig(init="exact", eta=0.1, optimizer="muon", depth_lr=0.0)
    learned = LearnedMaps(plan_with(config), config)
    optimizer = learned.optimizer(config)
    assert optimizer is not None
    generator = torch.Generator().manual_seed(0)
    for parameter in learned.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()
    for parameter in learned.parameters():
        singular = torch.linalg.svdvals(parameter.detach())
        # five Newton-Schulz steps leave singular values between about 0.7 and 1.2 (Jordan et al., 2024)
        assert singular.min() > 0.06 and singular.max() < 0.125


def test_muon_learns_the_maps_and_adamw_the_depth() -> None:
    config = learning(init="stack", optimizer="muon")
    muon, adamw = LearnedMaps(plan_with(config), config).parameter_groups(config)
    assert len(muon) > 2 and all(group["params"][0].ndim == 2 for group in muon)
    assert [group["lr"] for group in adamw] == [config.depth_lr]
    learned, _ = learn(plan_with(config), init="stack", optimizer="muon")
    assert learned.best_loss < learned.start_loss


def test_the_schedule_fits_the_steps_there_are() -> None:
    factors = [warmup_cosine(step, 40, 0.1) for step in range(40)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[-1] < 0.01


def test_maps_without_gradients_are_the_same_maps() -> None:
    config = OperatorConfig(init="exact")
    plan = plan_with(config)
    learned = LearnedMaps(plan, config)()
    fixed = detached(learned)
    for name, space_map in learned.spaces.items():
        np.testing.assert_array_equal(space_map.expand.matrix(), fixed.spaces[name].expand.matrix())
        assert not getattr(fixed.spaces[name].expand, "values", torch.zeros(0)).requires_grad
