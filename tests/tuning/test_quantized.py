"""The 4-bit base: its levels, what its scales take, that it trains like the other engines, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from ligo.core.errors import ConfigError
from ligo.core.run import Run
from ligo.options import compose_options
from ligo.training.config import TrainConfig
from ligo.tune import OPTIONS
from ligo.tuning.quantized import import_bitsandbytes, quantized_model
from tests.tuning.tuned import checkpoint, instructions, run, tensors

PARITY = 1e-5
NF4 = (-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
       -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
       0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0)  # fmt: skip
"""Dettmers et al. 2023 (arXiv 2305.14314), appendix E."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return instructions(tmp_path_factory.mktemp("data") / "words.json")


def test_the_levels_are_those_that_were_published(base: Path) -> None:
    model = quantized_model(base, TrainConfig(engine="torch"), double_quantization=True)
    state = model.model.layers[0].mlp.up_proj.weight.quant_state
    assert state.code.tolist() == pytest.approx(NF4, abs=1e-7)
    assert state.blocksize == 64 and state.state2.blocksize == 256
    assert model.lm_head.weight.dtype == torch.float32


def test_double_quantization_leaves_0127_bits_of_scales_per_weight() -> None:
    """0.5 without; the paper gives 0.127."""
    functional = import_bitsandbytes().functional
    weights = torch.randn(4096, 4096, generator=torch.Generator().manual_seed(0))
    bits = []
    for twice in (False, True):
        _, state = functional.quantize_4bit(
            weights, blocksize=64, compress_statistics=twice, quant_type="nf4"
        )
        held = [state.absmax, *([state.state2.absmax] if twice else [])]
        bits.append(8 * sum(t.numel() * t.element_size() for t in held) / weights.numel())
    assert bits[0] == 0.5
    assert math.isclose(bits[1], 0.127, abs_tol=5e-4)


def test_a_gradient_passes_through_after_an_evaluation_as_before_it(base: Path) -> None:
    model = quantized_model(base, TrainConfig(engine="torch"), double_quantization=True)
    ids = torch.arange(30).reshape(2, 15)
    embeddings = model.get_input_embeddings()(ids).detach().requires_grad_()

    def gradient() -> torch.Tensor:
        loss = model.train()(inputs_embeds=embeddings).logits.square().sum()
        return torch.autograd.grad(loss, embeddings)[0]

    before = gradient()
    with torch.no_grad():
        model.eval()(ids)
    assert before.abs().max() > 0
    torch.testing.assert_close(gradient(), before)


@pytest.mark.parametrize(("method", "rate"), [("qlora", "2e-2"), ("qvera", "2e-1")])
def test_tuning_beside_4_bits_learns_equally_on_every_engine_and_saves_no_frozen_weight(
    tmp_path: Path, base: Path, data: Path, method: str, rate: str
) -> None:
    options = (f"tuning={method}", f"train.lr={rate}", "train.keep_every=6")
    engines = {
        "torch": ("train.engine=torch",),
        **{f"zero{stage}": ("train.engine=deepspeed", f"deepspeed=zero{stage}") for stage in (0, 1, 2)},
    }
    found = {name: run(tmp_path / name, base, data, *options, *engine) for name, engine in engines.items()}
    result = Run(found["torch"]).stage_results()["tune"]
    assert result["loss"] < result["start_loss"] - 0.4
    reference = tensors(found["torch"] / "adapter" / "adapter_model.safetensors")
    for name, folder in found.items():
        here = tensors(folder / "adapter" / "adapter_model.safetensors")
        assert max(float((here[key] - reference[key]).abs().max()) for key in reference) < PARITY, name
        state = tensors(next(folder.glob("checkpoints/tune/step-00000006/state-*.safetensors")))
        weights = [t.numel() for key, t in state.items() if key.startswith("weight.")]
        assert sum(weights) == result["trained_parameters"], name


def test_recomputing_activations_changes_nothing(tmp_path: Path, base: Path, data: Path) -> None:
    """As the recipes do it: an adapter's inputs come through frozen layers."""
    options = ("tuning=qlora", "train.lr=2e-2", "train.steps=2")
    plain = run(tmp_path / "plain", base, data, *options)
    again = run(tmp_path / "again", base, data, *options, "train.activation_checkpointing=full")
    there, here = (tensors(folder / "adapter" / "adapter_model.safetensors") for folder in (plain, again))
    assert any(bool(here[name].any()) for name in here if "lora_B" in name)
    assert max(float((here[name] - there[name]).abs().max()) for name in there) < PARITY


def test_a_run_beside_4_bits_that_was_cut_goes_on_to_the_same_bytes(
    tmp_path: Path, base: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ligo.tracking.jsonl import JsonlTracker

    log = JsonlTracker.log

    def crash(self: JsonlTracker, record: dict[str, float]) -> None:
        if record["step"] == 5:
            raise RuntimeError("crashed on purpose")
        log(self, record)

    options = ("tuning=qlora", "train.lr=2e-2", "merge=true")
    whole = run(tmp_path / "whole", base, data, *options)
    with monkeypatch.context() as patched:
        patched.setattr(JsonlTracker, "log", crash)
        with pytest.raises(RuntimeError, match="on purpose"):
            run(tmp_path / "cut", base, data, *options)
    cut = run(tmp_path / "cut", base, data, *options)
    for file in ("adapter/adapter_model.safetensors", "trained/model.safetensors"):
        assert (cut / file).read_bytes() == (whole / file).read_bytes()


def test_zero3_is_refused_unless_forced() -> None:
    options = ["tuning=qlora", "deepspeed=zero3", "data.path=x.json"]
    with pytest.raises(ConfigError, match="have been seen to drift"):
        compose_options(options, OPTIONS)
    assert compose_options([*options, "tuning.force_zero3=true"], OPTIONS)[0].tuning.force_zero3


def test_rows_that_bitsandbytes_gives_back_wrongly_are_refused(tmp_path: Path, data: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("the kernels of GPUs are right")
    odd = checkpoint(tmp_path / "odd", intermediate_size=96)
    with pytest.raises(ConfigError, match="gives rows of 96 numbers back with an error of 0.2"):
        run(tmp_path / "run", odd, data, "tuning=qlora")
    assert not (tmp_path / "run").exists()
