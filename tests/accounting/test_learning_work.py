"""What a plan says of learning is what learning does, the noise of the last evaluation included."""

from __future__ import annotations

import numpy as np
import pytest

from ligo.accounting.trace import Trace
from ligo.config import GrowConfig, SmallConfig, TargetConfig
from ligo.costs import costs
from ligo.data.sources import DataConfig
from ligo.families.stock import fresh_model
from ligo.learning.config import LearnConfig
from ligo.learning.fit import learn_operator
from ligo.operators.config import OperatorConfig
from ligo.plan import make_plan
from ligo.training.config import TrainConfig
from ligo.training.objectives import make_objective
from tests.conftest import tiny_config

LENGTH, WINDOWS = 16, 4


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_the_planned_work_of_learning_is_that_of_a_run(noise: float) -> None:
    small, tokens = (
        {**tiny_config(num_hidden_layers=4), "architectures": ["LlamaForCausalLM"]},
        LENGTH * WINDOWS,
    )
    config = GrowConfig(
        small=SmallConfig(name="small", model=small),
        target=TargetConfig(
            hidden_size=48, num_hidden_layers=6, num_attention_heads=6, num_key_value_heads=3
        ),
        operator=OperatorConfig(name="ligo", init="stack", steps=2, batch_tokens=tokens, noise=noise),
        learn=LearnConfig(forward="materialise"),
        data=DataConfig(sequence_length=LENGTH, validation_tokens=tokens),
        train=TrainConfig(max_tokens=tokens, batch_tokens=tokens, engine="torch"),
        stages=["learn"],
    )
    plan = make_plan(config, small)
    weights, objective = fresh_model(plan.small).state_dict(), make_objective(plan.target)
    windows = np.random.default_rng(0).integers(0, small["vocab_size"], (WINDOWS, LENGTH + 1))
    with Trace() as trace:
        learned = learn_operator(
            plan, weights.__getitem__, lambda step: windows, [windows], config.operator, config.learn, lambda record: None,
            objective=objective, seed=0,
        )  # fmt: skip
    trace.close()
    assert learned.best_step, "the start is kept, and what would be written is not evaluated"
    planned = costs(config, plan).stages["learn"].work
    assert planned.flops == trace.work.flops
    assert planned.drawn == trace.work.drawn
    assert (planned.drawn > 0) == bool(noise)
