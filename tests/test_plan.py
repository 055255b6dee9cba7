"""What a plan says of a machine: what fits, what would, and what learning is charged."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from ligo.accounting.flops import model_flops
from ligo.accounting.hardware import HardwareConfig, Rates, Work, sheet_rates
from ligo.config import GrowConfig, compose
from ligo.core.errors import ConfigError, ResourceError
from ligo.costs import Costs, costs
from ligo.growth.plan import GrowthPlan
from ligo.plan import check_memory, known_config, make_plan, plan_json, plan_text, print_plan

TINY = ("small=tiny-llama", "target=tiny-llama-2x", "data.validation_tokens=1024")


def planned(*arguments: str) -> tuple[GrowConfig, GrowthPlan]:
    config, _ = compose([*TINY, *arguments])
    model = known_config(config.small)
    assert model is not None
    return config, make_plan(config, model)


def costs_of(*arguments: str) -> Costs:
    return costs(*planned(*arguments))


def test_what_does_not_fit_is_refused_with_options_that_fit(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("hardware=a100", "hardware.memory_gib=0.6", "stages=[write,train]", "operator=exact",
                 "train.engine=torch")  # fmt: skip
    config, _ = compose([*TINY, *arguments])
    with pytest.raises(
        ResourceError, match="train needs .* MiB on each rank .*, and a100 has 614.4 MiB"
    ) as refused:
        print_plan(config, "")
    assert refused.value.exit_code == 5
    assert "Growth plan: tiny-llama" in capsys.readouterr().out  # printed all the same
    _, _, tried = str(refused.value).partition("Try: ")
    option = tried.split(" (")[0]
    assert option == "train.micro_batch_tokens=128"
    check_memory(*planned(*arguments, option))


def test_where_nothing_helps_that_is_said() -> None:
    with pytest.raises(ResourceError, match="no option that there is makes it fit"):
        check_memory(*planned("hardware=a100", "hardware.memory_gib=0.4", "operator=exact"))


def test_no_machine_means_no_such_promises() -> None:
    config, plan = planned("hardware=none", "hardware.memory_gib=0.001")
    check_memory(config, plan)
    data = plan_json(config, plan)
    assert data["stages"] == {}
    assert data["bytes"]["disk"] == sum(data["bytes"]["disk_parts"].values())


def test_a_plan_on_named_hardware_has_memory_time_and_price() -> None:
    arguments = ("hardware=h100", "hardware.count=2", "hardware.price_per_hour=3", "operator=exact")
    config, plan = planned(*arguments)
    data = plan_json(config, plan)
    json.dumps(data)
    stage = data["stages"]["train"]
    assert stage["memory_bytes"]["peak"] == sum(
        size for part, size in stage["memory_bytes"].items() if part != "peak"
    )
    assert stage["flops"] == config.train.max_tokens * model_flops(plan.target, 128).training
    assert stage["device_hours"] == pytest.approx(2 * stage["seconds"] / 3600)
    assert stage["price"] == pytest.approx(3 * stage["device_hours"])
    assert list(data["zero"]) == ["0", "1", "2", "3"]
    text = plan_text(config, plan)
    assert "hardware.efficiency=0.45, an assumption" in text
    assert "train, zero3" in text


def test_learning_is_planned_at_the_flops_that_it_is_charged() -> None:
    from ligo.families.stock import as_on_disk, fresh_model
    from ligo.learning.fit import learn_operator
    from ligo.training.objectives import make_objective

    config, plan = planned(
        "hardware=a100",
        "operator.steps=2",
        "operator.batch_tokens=256",
        "operator.init=stack",
        "stages=[learn]",
    )
    predicted = costs(config, plan).stages["learn"].flops
    torch.manual_seed(0)
    model = fresh_model(plan.small)
    small = {n: t.detach() for n, t in as_on_disk(model, dict(model.named_parameters())).items()}
    windows = np.random.default_rng(0).integers(0, 2048, (8, 129))
    learned = learn_operator(
        plan, small.__getitem__, lambda step: windows[:2], [windows], config.operator, config.learn, lambda record: None,
        objective=make_objective(plan.target), seed=0,
    )  # fmt: skip
    assert learned.best_step  # so that the best maps are evaluated once more
    assert learned.flops == pytest.approx(predicted, rel=1e-9)


def test_holding_the_small_model_in_less_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = [
        costs_of("hardware=a100", "stages=[learn]", f"learn.small={held}").stages["learn"].memory.weights
        for held in ("fp32", "bf16", "nf4", "offload")
    ]
    assert peaks == sorted(peaks, reverse=True)
    assert len(set(peaks)) == 4


def test_each_kind_of_work_takes_its_own_time() -> None:
    rates = Rates({"float32": 10.0}, 20.0, 5.0, 4.0, 2.0, 8.0, sent_bytes=1.0, op_s=0.5)
    work: dict[str, Any] = {
        "product_flops": {"float32": 10.0}, "attention_flops": 20.0, "moved_bytes": 5.0, "num_ops": 2.0, "updated": 4.0,
        "sent_bytes": 1.0, "stored_bytes": 2.0, "drawn": 8.0,
    }  # fmt: skip
    assert rates.seconds(Work(**work)) == 8.0
    assert rates.seconds(Work(**work).times(3) + Work(**work)) == 32.0
    assert rates.shared_by(2).seconds(Work({"float32": 10.0})) == 2.0


def test_a_sheet_is_reached_in_part() -> None:
    half, whole = (
        sheet_rates(HardwareConfig(bf16_tflops=100, fp32_tflops=10, bandwidth_gb_s=1000, efficiency=part))
        for part in (0.5, 1.0)
    )
    assert whole.product_flops["bfloat16"] == 1e14
    assert half.product_flops["float32"] == 5e12


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("hardware.count=0", "hardware.count=0 must be above 0"),
        ("hardware.efficiency=2", "hardware.efficiency=2 must be above 0 and at most 1"),
        ("hardware=v100", "hardware=v100 is not known"),
    ],
)
def test_hardware_that_cannot_be_is_refused(argument: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        compose([argument])
