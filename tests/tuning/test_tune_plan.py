"""What tuning will hold: frozen weights as bitsandbytes packs them, published sizes, and what does not fit is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ligo.accounting.hardware import HardwareConfig
from ligo.core.errors import ConfigError, ResourceError
from ligo.families.base import family_of
from ligo.options import compose_options
from ligo.training.config import TrainConfig
from ligo.tune import OPTIONS, tune
from ligo.tune_plan import TuningPlan
from ligo.tuning.config import TuneTrainConfig, TuningConfig
from ligo.tuning.quantized import quantized_model
from tests.tuning.tuned import SHAPE, checkpoint, instructions, run

LORA = TuningConfig(method="lora", peft={"r": 4, "target_modules": "all-linear"})
TRAIN = TuneTrainConfig(engine="torch", batch_size=4)


def planned(
    tuning: TuningConfig = LORA, train: TuneTrainConfig = TRAIN, stage: int = 0, ranks: int = 1, **sizes: Any
) -> TuningPlan:
    return TuningPlan(
        family_of({**SHAPE, **sizes}), tuning, train, max_length=64,
        deepspeed={"zero_optimization": {"stage": stage}}, hardware=HardwareConfig(count=ranks),
    )  # fmt: skip


def test_a_65b_base_in_4_bits_fits_48_gb() -> None:
    """As Dettmers et al. 2023 (arXiv 2305.14314) tuned it, on a single GPU of that size."""
    config, _ = compose_options(["+recipe=guanaco-65b", "hardware=a100", "plan=true"], OPTIONS)
    family = family_of(dict(config.small.model))
    plan = TuningPlan(
        family, config.tuning, config.train, max_length=512, deepspeed=config.deepspeed, hardware=config.hardware
    )  # fmt: skip
    assert plan.trained == 799_539_200
    assert 40e9 < plan.memory.peak < 48e9
    matrices, rest = 64_760_053_760, 525_606_912
    held = matrices * (4 + 0.127) / 8 + 2 * rest + 2 * plan.trained
    assert plan.memory.weights == pytest.approx(held, rel=1e-4)


@pytest.mark.parametrize("twice", [False, True])
def test_frozen_weights_are_counted_as_bitsandbytes_packs_them(tmp_path: Path, twice: bool) -> None:
    sizes = {"hidden_size": 128, "head_dim": 32, "num_key_value_heads": 4, "intermediate_size": 256}
    model = quantized_model(
        checkpoint(tmp_path / "base", **sizes), TrainConfig(engine="torch"), double_quantization=twice
    )
    held = 0
    for parameter in model.parameters():
        held += parameter.numel() * parameter.element_size()
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            held += state.absmax.numel() * state.absmax.element_size()
            held += state.state2.absmax.numel() * 4 if state.nested else 0
    quantised = replace(LORA, quantization="nf4", double_quantization=twice)
    plan = planned(quantised, **sizes)
    rotary = sum(4 * buffer.numel() for buffer in model.buffers())
    assert plan.memory.weights == held + rotary + 4 * plan.trained


def test_an_adapter_alone_has_gradients_and_moments() -> None:
    plan, full = planned(), planned(TuningConfig(method="full"))
    assert plan.memory.optimizer == 8 * plan.trained
    assert full.memory.optimizer == 8 * full.trained and full.trained > 5 * plan.trained
    assert full.memory.weights < plan.memory.weights < full.memory.weights + 5 * plan.trained


def test_zero_deals_out_what_is_trained() -> None:
    train = replace(TRAIN, engine="deepspeed")
    one, two = planned(train=train, stage=1), planned(train=train, stage=1, ranks=2)
    assert two.memory.optimizer == one.memory.optimizer / 2
    assert two.memory.weights == one.memory.weights


def test_recomputed_activations_are_not_held() -> None:
    train, sizes = replace(TRAIN, batch_size=32), {"num_hidden_layers": 12, "vocab_size": 256}
    plain = planned(train=train, **sizes)
    again = planned(train=replace(train, activation_checkpointing="full"), **sizes)
    assert again.memory.activations < plain.memory.activations / 2


@pytest.mark.parametrize("method", ["lora", "vera", "full"])
def test_a_plan_needs_neither_weights_nor_instructions(
    tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tune(*compose_options(["small=tiny-llama", f"tuning={method}", "plan=true", "hardware=h100"], OPTIONS))
    text = capsys.readouterr().out
    assert f"Tuning plan: tiny-llama, {method}" in text and "1 x h100 with 79.1 GiB each" in text
    assert all(f"zero{stage}" in text for stage in range(4))
    assert not any(tmp_path.iterdir())


def test_a_plan_without_a_machine_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"plan=true plans for a machine(.|\n)*Try: hardware=cpu"):
        compose_options(["plan=true", "hardware=none"], OPTIONS)


def test_what_does_not_fit_is_refused_with_what_would(tmp_path: Path) -> None:
    base, data = checkpoint(tmp_path / "base"), instructions(tmp_path / "words.json")
    with pytest.raises(ResourceError, match=r"tuning needs .* on each rank(.|\n)*Try: .*train.") as error:
        run(
            tmp_path / "run", base, data, "tuning=full", "hardware=cpu", "hardware.memory_gib=0.7", "train.batch_size=64",
        )  # fmt: skip
    assert error.value.exit_code == 5 and not (tmp_path / "run").exists()
