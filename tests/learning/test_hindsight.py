"""Maps fitted to trained weights: what they can make they find, what was trained is compared as it computes, all is charged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ligo import grow
from ligo.core.files import read_json
from ligo.families.spec import RESIDUAL
from ligo.growth.execute import sources
from ligo.growth.plan import GrowthPlan
from ligo.learning.config import LearnConfig
from ligo.learning.fit import LearnedOperator
from ligo.learning.functional import LearnedMaps, detached, grown_parameters
from ligo.learning.hindsight import FirstRun, _Goal, fit_to_trained
from ligo.operators.config import OperatorConfig
from ligo.training.objectives import make_objective
from tests.learning.test_learning import learning, loss_of, plan_with, small_weights, windows
from tests.test_commands import BUDGET, SMALL, TARGET, run

PAID = dict(flops=1e9, tokens=4096, wall_s=7.0)


def fit(
    plan: GrowthPlan, trained: dict[str, torch.Tensor], config: OperatorConfig
) -> tuple[LearnedOperator, list[dict[str, Any]]]:
    log: list[dict[str, Any]] = []
    learned = fit_to_trained(
        plan, small_weights(plan).__getitem__, FirstRun(trained.__getitem__, **PAID), [windows(100)], config,
        LearnConfig(), log.append, objective=make_objective(plan.target), seed=0,
    )  # fmt: skip
    return learned, log


def moved(plan: GrowthPlan, config: OperatorConfig) -> dict[str, torch.Tensor]:
    """Weights that the maps can make: the start's with every map and coefficient moved a little."""
    torch.manual_seed(0)
    learned = LearnedMaps(plan, config)
    with torch.no_grad():
        for parameter in learned.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    maps = detached(learned())
    return grown_parameters(plan, maps, sources(plan, maps, small_weights(plan).__getitem__))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("start", ["exact", "stack"])
def test_what_the_maps_can_make_is_found(start: str, tied: bool) -> None:
    config = learning(init=start, steps=300, noise=0.0)
    plan = plan_with(config, tied=tied)
    trained = moved(plan, config)
    learned, log = fit(plan, trained, config)
    assert learned.captured is not None and learned.captured > 0.99
    assert log[0]["train/loss"] == pytest.approx(1.0, abs=1e-5)  # of the way, before the first step
    assert log[-1]["train/loss"] == pytest.approx(1 - learned.captured)
    made = grown_parameters(plan, learned.maps, sources(plan, learned.maps, small_weights(plan).__getitem__))
    with torch.no_grad():
        there, here = loss_of(plan, trained, step=100), loss_of(plan, made, step=100)
    assert float(here) == pytest.approx(float(there), abs=5e-3)
    assert learned.best_loss == pytest.approx(float(here), abs=1e-5)


def test_of_weights_that_went_anywhere_only_a_part_is_made() -> None:
    config = learning(steps=300)
    plan = plan_with(config)
    start = grown_parameters(plan, plan.maps, sources(plan, plan.maps, small_weights(plan).__getitem__))
    torch.manual_seed(1)
    learned, _ = fit(plan, {name: w + 0.02 * torch.randn_like(w) for name, w in start.items()}, config)
    assert learned.captured is not None and 0.01 < learned.captured < 0.9


def test_trained_scales_are_folded_into_readers_without_a_change_of_function() -> None:
    config = learning()
    plan = plan_with(config, tied=True)
    assert LearnedMaps(plan, config)().spaces[RESIDUAL].fold_gains  # else there would be nothing to fold
    torch.manual_seed(2)
    start = grown_parameters(plan, plan.maps, sources(plan, plan.maps, small_weights(plan).__getitem__))
    trained = {name: w + 0.1 * torch.rand_like(w) for name, w in start.items()}
    goal = _Goal(plan, trained.__getitem__, fold=True)
    folded = {spec.name: goal(spec) for spec in goal.specs}
    assert folded.keys() == trained.keys()
    assert not torch.equal(
        folded["model.layers.0.mlp.up_proj.weight"], trained["model.layers.0.mlp.up_proj.weight"]
    )
    assert folded["model.layers.1.input_layernorm.weight"].unique().tolist() == [1.0]
    with torch.no_grad():
        assert float(loss_of(plan, folded)) == pytest.approx(float(loss_of(plan, trained)), abs=1e-6)


def test_the_first_run_is_charged_and_fitting_costs_what_it_computes() -> None:
    config = learning(init="stack", steps=2)
    plan = plan_with(config)
    learned, log = fit(plan, moved(plan, config), config)
    build = plan.build_flops(LearnedMaps(plan, config)())
    assert [record["flops"] for record in log] == [3 * build, 6 * build]
    evaluations = learned.flops - PAID["flops"] - 6 * build
    assert 0 < evaluations < 1e8
    assert learned.tokens == PAID["tokens"] and learned.wall_s > PAID["wall_s"]
    assert learned.best_step == 2


def test_weights_that_never_moved_leave_the_start() -> None:
    config = learning(init="stack", steps=5)
    plan = plan_with(config)
    maps = detached(LearnedMaps(plan, config)())
    start = grown_parameters(plan, maps, sources(plan, maps, small_weights(plan).__getitem__))
    learned, log = fit(plan, start, config)
    assert (learned.captured, log, learned.best_step) == (1.0, [], 0)


def test_a_run_is_fitted_to_another_and_its_maps_serve_a_third(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"On day {i % 31} the fox saw {i * 7 % 13} crows.\n" for i in range(2000)))
    common = [*SMALL, *TARGET, *BUDGET, f"data.path={text}", "data=custom"]
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    assert run(grow, *common, "operator=stack", f"run.dir={first}", "stages=[write,train]") == 0
    hindsight = [*common, "operator=ligo", "operator.init=stack", "operator.steps=20"]
    assert (
        run(grow, *hindsight, f"learn.fit_to={first}", f"run.dir={second}", "stages=[learn,write,train]") == 0
    )
    assert "of the way to the trained weights" in capsys.readouterr().out
    there, here = (read_json(folder / "stages.json") for folder in (first, second))
    assert 0.0 < here["learn"]["captured"] < 1.0
    assert here["learn"]["flops"] > there["train"]["flops"] + there["write"]["build_flops"]
    assert here["learn"]["tokens"] == there["train"]["tokens"] == 4096
    code = run(
        grow, *hindsight, f"learn.operator={second}", f"run.dir={third}", "seed=1", "stages=[learn,write]"
    )
    assert code == 0
    assert read_json(third / "stages.json")["learn"]["flops"] == 0.0
    assert (
        load_file(third / "operator.safetensors").keys() == load_file(second / "operator.safetensors").keys()
    )

    wider = [*common, "target.intermediate_size=48", "operator=ligo", "operator.init=stack"]
    code = run(grow, *wider, f"learn.fit_to={first}", f"run.dir={tmp_path / 'wider'}", "stages=[learn]")
    assert code == 4
    assert "trained another target" in capsys.readouterr().err
    assert not (tmp_path / "wider" / "operator.safetensors").exists()


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["operator=exact"], 2, "operator=exact has none that are learned"),
        (["operator=ligo", "learn.operator=somewhere"], 2, "learn.operator takes maps as they are"),
        (["operator=ligo"], 4, "is no run folder with a trained/ model in it"),
    ],
)
def test_what_cannot_be_fitted_to_is_refused(
    options: list[str], code: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        *options,
        f"learn.fit_to={tmp_path}",
        f"run.dir={tmp_path / 'run'}",
        "data.path=package:bible/data/kjv.jsonl",
    ]
    assert run(grow, *arguments) == code
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
