"""Layers and tokens are dropped in training only, as often as asked, the same ones again after a resume, and charged so."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ligo.accounting.flops import model_flops
from ligo.core.errors import ConfigError
from ligo.families.base import family_of
from ligo.training.config import TrainConfig
from ligo.training.dropping import (
    check_dropping,
    flops_share,
    install_dropping,
    keep_probabilities,
    kept_layers,
    num_kept_tokens,
    start_step,
    training_flops,
)
from ligo.training.layers import layers_of
from ligo.training.models import fresh_model
from ligo.training.schedule import num_steps
from tests.conftest import tiny_config
from tests.families.tiny import TINY
from tests.families.tiny_others import OTHERS
from tests.training.arms import CONFIG, LENGTH, records, run_arm

ROUNDING = 1e-5  # float32, of logits up to 3
PARITY = 1e-5  # float32 rounding of the same arithmetic in another order, over eight steps
FOUR_LAYERS = tiny_config(num_hidden_layers=4)
TEXT = {name: config for name, config in {**TINY, **OTHERS}.items() if "image_size" not in config}
DROPS = replace(CONFIG, layer_drop=0.8, token_drop=0.5)


def model_and_inputs(config: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A stock model in training mode, dropout off, and tokens or images for it."""
    family = family_of(config)
    model = fresh_model(config, seed=0).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "dropout", None), float):  # as OPT has it
            module.dropout = 0.0
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():  # fresh ones hardly look at other tokens
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    if family.dims.vocab_size:
        ids = torch.randint(0, family.dims.vocab_size, (3, 8), generator=generator)
        return model, {"input_ids": ids}
    channels, size = family.setting("num_channels"), family.setting("image_size")
    return model, {"pixel_values": torch.randn(3, channels, size, size, generator=generator)}


def output(model: Any, inputs: dict[str, Any], seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    out: Tensor = model(**inputs)[0]
    return out


@pytest.mark.parametrize("config", {**TINY, **OTHERS}.values(), ids=[*TINY, *OTHERS])
def test_nothing_dropped_is_bit_equal_and_evaluation_drops_nothing(config: dict[str, Any]) -> None:
    model, inputs = model_and_inputs(config)
    expected = output(model, inputs)
    install_dropping(model, CONFIG, family_of(config))
    assert torch.equal(output(model, inputs), expected)

    model, inputs = model_and_inputs(config)
    changes = {"layer_drop": 0.9} if "image_size" in config else {"layer_drop": 0.9, "token_drop": 0.6}
    install_dropping(model, replace(CONFIG, **changes), family_of(config))
    start_step(model, 7)
    model.eval()
    assert torch.equal(output(model, inputs), expected)


@pytest.mark.parametrize("config", TEXT.values(), ids=list(TEXT))
def test_masks_and_positions_go_with_the_tokens_that_are_kept(config: dict[str, Any]) -> None:
    """sdpa is given no mask where eager attention is given one: both must see the same part of it."""
    outputs = []
    for attention in ("sdpa", "eager"):
        family = family_of({**config, **_deeper(config)})
        model, inputs = model_and_inputs(family.config)
        if attention == "eager" or "gemma2" not in family.config["model_type"]:  # which is eager always
            model.set_attn_implementation(attention)
        whole = output(model, inputs)
        install_dropping(model, replace(CONFIG, token_drop=0.5), family)
        outputs.append(output(model, inputs))
        assert (outputs[-1] - whole).abs().max() > 100 * ROUNDING
        assert not torch.equal(output(model, inputs, seed=1), outputs[-1])
    torch.testing.assert_close(*outputs, rtol=0, atol=ROUNDING)


def _deeper(config: dict[str, Any]) -> dict[str, Any]:
    """Three layers, so that there is one between the first and the last."""
    family = family_of(config)
    made = family.resized(replace(family.dims, num_layers=3))
    return {
        key: (value * 2)[:3] if key in family.per_layer_keys and value else value
        for key, value in made.items()
    }


def test_a_middle_layer_works_on_a_part_of_the_tokens_at_their_own_places() -> None:
    config = tiny_config(num_hidden_layers=3)
    model, inputs = model_and_inputs(config)
    layer, seen = layers_of(model, "test")[1], {}
    stock = layer.forward
    layer.forward = lambda hidden, **more: seen.setdefault(
        "out", stock(seen.setdefault("in", hidden), **more)
    )
    install_dropping(model, replace(CONFIG, token_drop=0.5), family_of(config))
    given: dict[str, Tensor] = {}
    layers_of(model, "test")[0].register_forward_hook(lambda _m, _i, out: given.setdefault("before", out))
    layers_of(model, "test")[2].register_forward_pre_hook(lambda _m, i: given.setdefault("after", i[0]))
    output(model, inputs)
    assert seen["in"].shape[1] == num_kept_tokens(replace(CONFIG, token_drop=0.5), 8) == 4

    places = [
        [int((row == token).all(-1).nonzero()[0]) for token in kept]
        for row, kept in zip(given["before"], seen["in"], strict=True)
    ]
    assert all(p == sorted(p) for p in places) and places[0] != places[1]
    positions = torch.tensor(places)
    rotary = model.model.rotary_emb(seen["in"], position_ids=positions)
    expected = stock(seen["in"], attention_mask=None, position_embeddings=rotary)
    torch.testing.assert_close(seen["out"], expected, rtol=0, atol=ROUNDING)
    for row in range(3):
        passed_over = [place for place in range(8) if place not in places[row]]
        assert torch.equal(given["after"][row, passed_over], given["before"][row, passed_over])
        assert torch.equal(given["after"][row, places[row]], seen["out"][row])


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_a_dropped_layer_does_nothing_and_its_gradient_is_zero(name: str) -> None:
    config = {**TINY, **OTHERS}[name]
    family = family_of(config)
    model, inputs = model_and_inputs(config)
    install_dropping(model, replace(CONFIG, layer_drop=0.8), family)
    step = next(
        s
        for s in range(1, 100)
        if list(kept_layers(replace(CONFIG, layer_drop=0.8), family.dims.num_layers, s)) == [True, False]
    )
    start_step(model, step)
    streams = []
    for layer in layers_of(model, "test"):
        layer.register_forward_hook(lambda _m, i, out: streams.append((i[0], out)))
    output(model, inputs).square().mean().backward()  # type: ignore[no-untyped-call]
    assert torch.equal(*streams[1])
    last = list(layers_of(model, "test")[1].parameters())
    assert last and all(p.grad is not None and not p.grad.any() for p in last)
    assert all(
        p.grad is not None and p.grad.any() for p in layers_of(model, "test")[0].parameters() if p.ndim == 2
    )

    probability = keep_probabilities(replace(CONFIG, layer_drop=0.8), 2, step)[0]
    plain, _ = model_and_inputs(config)
    expected = layers_of(plain, "test")[0](streams[0][0]) if name == "bert" else None
    if expected is not None:  # the stream is normed: left as it is
        torch.testing.assert_close(streams[0][1], expected, rtol=0, atol=ROUNDING)
    else:
        rotary = plain.model.rotary_emb(streams[0][0], position_ids=torch.arange(8)[None])
        added = (
            layers_of(plain, "test")[0](streams[0][0], attention_mask=None, position_embeddings=rotary)
            - streams[0][0]
        )
        torch.testing.assert_close(
            streams[0][1] - streams[0][0], added / probability, rtol=1e-4, atol=ROUNDING
        )


def test_layers_are_kept_as_often_as_the_schedule_says() -> None:
    config = TrainConfig(max_tokens=4_000, batch_tokens=1, layer_drop=0.4)
    assert list(keep_probabilities(config, 4, 0)) == [1, 1, 1, 1]
    assert keep_probabilities(config, 4, 3_999) == pytest.approx([0.9, 0.8, 0.7, 0.6])
    assert keep_probabilities(config, 4, 40)[3] == pytest.approx(1 - 0.4 * (1 - np.exp(-1)))
    kept = np.stack([kept_layers(config, 4, step) for step in range(num_steps(config))])
    expected = np.stack([keep_probabilities(config, 4, step) for step in range(num_steps(config))])
    deviation = np.sqrt((expected * (1 - expected)).sum(0))
    assert (abs(kept.sum(0) - expected.sum(0)) < 4 * deviation).all()


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "bert"])
def test_flops_are_those_that_torch_counts(name: str) -> None:
    config = {**TINY, **OTHERS}[name]
    family = family_of({**config, **_deeper(config)})
    training = replace(CONFIG, layer_drop=0.8, token_drop=0.5)
    model, inputs = model_and_inputs(family.config)
    model.set_attn_implementation("eager")
    install_dropping(model, training, family)
    share, shares = flops_share(training, family, 8), set()
    for step in range(8):
        start_step(model, step)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(**inputs)
        counted = counter.get_total_flops() / inputs["input_ids"].numel()
        assert counted == pytest.approx(model_flops(family, 8).forward * share(step), rel=1e-9)
        shares.add(share(step))
    assert len(shares) >= 3 and max(shares) < 1


def test_an_arm_that_drops_resumes_exactly_and_is_charged_what_it_ran(tmp_path: Path) -> None:
    family = family_of(FOUR_LAYERS)
    share = flops_share(DROPS, family, LENGTH)
    done = run_arm(tmp_path / "whole", DROPS, model_config=FOUR_LAYERS, flops_share=share)
    run_arm(tmp_path / "half", DROPS, model_config=FOUR_LAYERS, flops_share=share)
    shutil.rmtree(tmp_path / "half" / "checkpoints" / "step-00000008")
    run_arm(tmp_path / "half", DROPS, model_config=FOUR_LAYERS, flops_share=share)
    assert records(tmp_path / "half") == records(tmp_path / "whole")
    run_arm(tmp_path / "all", model_config=FOUR_LAYERS)
    assert records(tmp_path / "all")[-1]["train/loss"] != records(tmp_path / "whole")[-1]["train/loss"]
    per_token = model_flops(family, LENGTH).training
    assert done.flops / 10.0 * per_token == pytest.approx(
        training_flops(DROPS, family, LENGTH)
    )  # an arm costs 10 per token
    assert training_flops(CONFIG, family, LENGTH) == CONFIG.max_tokens * per_token


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_deepspeed_drops_the_same(stage: int, tmp_path: Path) -> None:
    losses = []
    for engine in ("torch", "deepspeed"):
        run_arm(tmp_path / engine, replace(DROPS, engine=engine), stage, model_config=FOUR_LAYERS)
        losses.append([r["train/loss"] for r in records(tmp_path / engine) if "train/loss" in r])
    assert losses[1] == pytest.approx(losses[0], abs=PARITY)


def test_an_image_needs_its_class_token_in_every_layer() -> None:
    with pytest.raises(ConfigError, match=r"off one token(.|\n)*train.layer_drop=0.1"):
        check_dropping(replace(CONFIG, token_drop=0.1), family_of(OTHERS["vit"]))
    check_dropping(replace(CONFIG, layer_drop=0.1), family_of(OTHERS["vit"]))
