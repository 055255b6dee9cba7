"""The decoders with RMSNorm: tables, exactness, FLOPs, per-layer settings, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig

from ligo.accounting.flops import model_flops
from ligo.core.errors import CheckpointError, PlanError
from ligo.families.base import family_of, known_model_types
from ligo.families.llama import Llama
from ligo.families.spec import RESIDUAL, TensorSpec, writes
from ligo.families.stock import check_coverage
from ligo.growth.plan import plan_growth
from tests.families.tiny import RMS_DECODERS
from tests.growing import EXACT_FLOAT64, Grown, grow, lively_model, operator

PLAIN = [name for name in RMS_DECODERS if " " not in name]
VARIANTS = [name for name in RMS_DECODERS if " " in name]
EVEN = dict(hidden_size=64, num_layers=4, num_heads=8, num_kv_heads=4, ffn_size=96)
UNEVEN = dict(hidden_size=48, num_layers=5, num_heads=9, num_kv_heads=3, ffn_size=68)
GROWTHS = {
    "twice": EVEN,
    "uneven": UNEVEN,
    "depth only": dict(num_layers=5),
    "heads only": dict(num_heads=8, num_kv_heads=4),
    "key/value heads only": dict(num_kv_heads=4),
    "larger heads": dict(head_dim=16),
    "FFN only": dict(ffn_size=72),
    "everything": dict(hidden_size=40, head_dim=24, num_layers=3, num_heads=8, num_kv_heads=4, ffn_size=68, vocab_size=100),
}  # fmt: skip


def sizes_for(name: str, wanted: dict[str, int]) -> dict[str, int]:
    """The growth, for a family that wants hidden_size to be a multiple of the heads, or has no groups of heads."""
    small = family_of(RMS_DECODERS[name])
    fitting = dict(wanted)
    if getattr(small, "hidden_in_heads", False) and "hidden_size" in wanted:
        heads = wanted["num_heads"]
        fitting["hidden_size"] = -(-wanted["hidden_size"] // heads) * heads
    if small.dims.num_kv_heads == small.dims.num_heads and "num_kv_heads" in wanted:
        fitting["num_kv_heads"] = wanted.get("num_heads", 8)
        fitting["num_heads"] = wanted.get("num_heads", 8)
    return fitting


def claim_and_measure(grown: Grown) -> tuple[bool, bool]:
    return grown.plan.exactness.exact, grown.difference() <= EXACT_FLOAT64


# --- tables ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RMS_DECODERS)
def test_the_table_is_what_the_stock_model_saves(name: str) -> None:
    check_coverage(family_of(RMS_DECODERS[name]))


@pytest.mark.parametrize("name", PLAIN)
def test_a_table_that_lacks_or_adds_a_tensor_is_refused(name: str) -> None:
    family = family_of(RMS_DECODERS[name])
    whole = family.tensors
    family.__dict__["tensors"] = whole[1:]
    with pytest.raises(PlanError, match=f"{whole[0].name}: table None"):
        check_coverage(family)
    family.__dict__["tensors"] = [*whole, TensorSpec(name="ghost", kind="ghost", axes=(writes(RESIDUAL),))]
    with pytest.raises(PlanError, match="ghost: table .32,., model None"):
        check_coverage(family)


def config_of(
    model_type: str, hidden: int, layers: int, heads: int, kv_heads: int, ffn: int, vocab: int, **more: Any
) -> dict[str, Any]:
    return {
        "model_type": model_type, "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "intermediate_size": ffn, "vocab_size": vocab, **more,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("config", "published"),
    [
        (config_of("mistral", 4096, 32, 32, 8, 14336, 32000), 7_241_732_096),
        (config_of("qwen2", 896, 24, 14, 2, 4864, 151936, tie_word_embeddings=True), 494_032_768),
        (config_of("qwen3", 1024, 28, 16, 8, 3072, 151936, tie_word_embeddings=True), 596_049_920),
        (config_of("gemma2", 2304, 26, 8, 4, 9216, 256000), 2_614_341_888),
        (config_of("gemma3_text", 1152, 26, 4, 1, 6912, 262144), 999_885_952),
        (config_of("phi3", 3072, 32, 32, 32, 8192, 32064), 3_821_079_552),
        (config_of("olmo2", 4096, 32, 32, 32, 11008, 100352), 7_298_617_344),
        (config_of("mixtral", 4096, 32, 32, 8, 14336, 32000), 46_702_792_704),
        (config_of("qwen3_moe", 2048, 48, 32, 4, 6144, 151936, head_dim=128), 30_532_122_624),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_parameter_counts_equal_the_published_ones(config: dict[str, Any], published: int) -> None:
    assert family_of(config).num_parameters == published


SIZES = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, vocab_size=96)
MODEL_TYPES = [RMS_DECODERS[name]["model_type"] for name in PLAIN]


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_defaults_are_those_of_transformers(model_type: str) -> None:
    stock = AutoConfig.for_model(model_type=model_type, use_sliding_window=True)  # else Qwen drops the window
    known = {"rope_theta": (stock.rope_parameters or {}).get("rope_theta"), **vars(stock)}
    defaults = known_model_types()[model_type].defaults
    assert {key: known.get(key, getattr(stock, key, None)) for key in defaults} == defaults


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_what_config_json_leaves_out_is_what_transformers_fills_in(model_type: str) -> None:
    stock = AutoConfig.for_model(model_type=model_type, **SIZES)
    dims = family_of({"model_type": model_type, **SIZES}).dims
    assert dims.num_kv_heads == stock.num_key_value_heads
    assert dims.head_dim == (getattr(stock, "head_dim", None) or 32 // 4)
    assert dims.tied == stock.tie_word_embeddings


def test_no_key_value_heads_are_as_many_as_query_heads() -> None:
    for model_type in ("llama", "qwen2", "qwen3", "phi3", "olmo2"):
        config = {"model_type": model_type, **SIZES, "num_key_value_heads": None}
        assert family_of(config).dims.num_kv_heads == AutoConfig.for_model(**config).num_key_value_heads == 4


@pytest.mark.parametrize("name", PLAIN)
def test_hidden_size_is_a_multiple_of_the_heads_only_where_transformers_wants_it(name: str) -> None:
    family = family_of(RMS_DECODERS[name])
    assert isinstance(family, Llama)
    refused, wanted = False, dict(hidden_size=36, num_heads=8)
    try:
        AutoConfig.for_model(**{**family.config, "hidden_size": 36, "num_attention_heads": 8})
    except Exception as error:  # huggingface_hub's own, whose name is not public
        refused = "is not a multiple of the number of attention" in str(error)
    assert family.hidden_in_heads == refused
    if refused:
        with pytest.raises(PlanError, match="36 is not a multiple of 8 query heads"):
            plan_growth(family.config, wanted, operator())
    else:
        assert grow(family.config, wanted).difference() <= EXACT_FLOAT64


# --- growing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("growth", GROWTHS)
@pytest.mark.parametrize("name", PLAIN)
def test_scaled_duplication_is_exact_at_every_ratio(name: str, growth: str) -> None:
    assert claim_and_measure(grow(RMS_DECODERS[name], sizes_for(name, GROWTHS[growth]))) == (True, True)


@pytest.mark.parametrize("growth", ["uneven", "depth only"])
@pytest.mark.parametrize("name", VARIANTS)
def test_so_it_is_for_every_variant(name: str, growth: str) -> None:
    assert claim_and_measure(grow(RMS_DECODERS[name], sizes_for(name, GROWTHS[growth]))) == (True, True)


@pytest.mark.parametrize("growth", ["uneven", "larger heads"])
@pytest.mark.parametrize("width", ["pad", "net2net"])
@pytest.mark.parametrize("name", [name for name in PLAIN if name not in ("llama", "mistral")])
def test_what_is_claimed_is_what_is_measured(name: str, width: str, growth: str) -> None:
    claimed, measured = claim_and_measure(grow(RMS_DECODERS[name], sizes_for(name, GROWTHS[growth]), width))
    assert claimed == measured


def test_new_heads_under_one_norm_over_all_heads_are_exact_as_copies_and_not_beside_zeros() -> None:
    uneven = dict(num_heads=9, num_kv_heads=3)
    assert claim_and_measure(grow(RMS_DECODERS["olmo2"], uneven, "lemon")) == (True, True)
    padded = grow(RMS_DECODERS["olmo2"], uneven, "pad")
    assert claim_and_measure(padded) == (False, False)
    assert "RMSNorm sees other statistics of heads" in padded.plan.exactness.reason


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "olmo2"])
def test_gains_after_the_blocks_cannot_be_folded(name: str) -> None:
    with pytest.raises(PlanError, match="norms stand after the blocks(.|\n)*scaled_duplication"):
        plan_growth(RMS_DECODERS[name], EVEN, operator("isometry"))


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "phi3", "mixtral"])
def test_gains_before_the_blocks_can(name: str) -> None:
    assert claim_and_measure(grow(RMS_DECODERS[name], UNEVEN, "isometry")) == (True, True)


@pytest.mark.parametrize("name", ["gemma2", "olmo2"])
def test_an_inserted_layer_with_norms_after_its_blocks_ends_in_gains_of_zero(name: str) -> None:
    inserted = grow(RMS_DECODERS[name], dict(num_layers=4)).model.model.layers[1]
    stored = {"gemma2": -1.0, "olmo2": 0.0}[name]  # Gemma adds one to what is stored
    assert bool((inserted.post_attention_layernorm.weight == stored).all())
    assert bool((inserted.post_feedforward_layernorm.weight == stored).all())
    assert bool(inserted.self_attn.o_proj.weight.any())


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3", "olmo2"])
def test_new_coordinates_of_larger_heads_can_be_learned(name: str) -> None:
    model = grow(RMS_DECODERS[name], dict(head_dim=16)).model
    tokens = torch.arange(24)[None] % 96
    model(input_ids=tokens).logits.square().sum().backward()
    attention = model.model.layers[0].self_attn
    gradient = attention.k_proj.weight.grad.reshape(2, 16, 32)
    new = ~attention.k_proj.weight.reshape(2, 16, 32).any(-1)[0]
    assert int(new.sum()) == 8
    assert bool((gradient[:, new].abs().amax(-1) > 0).all())


# --- settings of layers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [n for n in RMS_DECODERS if n.split()[0] in ("qwen2", "qwen3", "gemma2", "gemma3")]
)
@pytest.mark.parametrize("layers", [2, 7])
def test_layer_types_that_follow_from_a_rule_are_written_out(name: str, layers: int) -> None:
    config = {**RMS_DECODERS[name], "num_hidden_layers": layers}
    assert family_of(config).config["layer_types"] == AutoConfig.for_model(**config).layer_types


def test_layer_types_that_are_given_are_kept() -> None:
    given = ["full_attention", "sliding_attention"]
    assert family_of({**RMS_DECODERS["gemma2"], "layer_types": given}).config["layer_types"] == given


def test_each_layer_keeps_its_type_when_depth_grows() -> None:
    target = plan_growth(RMS_DECODERS["gemma2"], dict(num_layers=4), operator()).target_config
    assert target["layer_types"] == ["sliding_attention"] * 2 + ["full_attention"] * 2


def test_a_list_of_end_tokens_is_not_one_per_layer() -> None:
    config = {**RMS_DECODERS["gemma3"], "eos_token_id": [1, 50]}
    target = plan_growth(config, dict(num_layers=4), operator()).target_config
    assert target["eos_token_id"] == [1, 50]


# --- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("mistral", {"attention_bias": True}, "attention_bias=True(.|\n)*Mistral without biases"),
        ("mistral", {"mlp_bias": True}, "mlp_bias=True"),
        ("phi3", {"attention_bias": True}, "Phi-3 without biases"),
        ("mixtral", {"attention_bias": True}, "Mixtral without biases"),
        ("gemma2", {"use_bidirectional_attention": True}, "trained to predict the next token"),
        ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention=True"),
        (
            "qwen3_moe",
            {"mlp_only_layers": [0]},
            r"mlp_only_layers=\[0\](.|\n)*some layers would have no experts",
        ),
        ("qwen3_moe", {"decoder_sparse_step": 2}, "decoder_sparse_step=2"),
        ("qwen3_moe", {"num_experts": 0}, "num_experts=0, which is no size"),
        ("mixtral", {"num_experts_per_tok": 5}, "num_experts_per_tok=5, and there are 4 experts"),
    ],
)
def test_variants_that_are_not_described_are_refused(name: str, change: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=f"{words}(.|\n)*Try"):
        family_of({**RMS_DECODERS[name], **change})


def test_ropes_by_layer_type_are_all_looked_at() -> None:
    rope = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        "full_attention": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e6},
    }
    with pytest.raises(PlanError, match="rope_type 'yarn'"):
        plan_growth({**RMS_DECODERS["gemma3"], "rope_parameters": rope}, dict(head_dim=16), operator())


def test_long_rope_factors_of_phi3_hold_heads_to_their_size() -> None:
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "rope_theta": 1e4}
    config = {**RMS_DECODERS["phi3"], "rope_parameters": rope, "original_max_position_embeddings": 16}
    assert claim_and_measure(grow(config, dict(hidden_size=48, num_heads=6))) == (True, True)
    with pytest.raises(PlanError, match="48 over 4 heads is 12(.|\n)*target.hidden_size=32"):
        plan_growth(config, dict(hidden_size=48), operator())


# --- FLOPs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RMS_DECODERS)
def test_flops_equal_torchs_counter_with_eager_attention(name: str) -> None:
    family, tokens = family_of(RMS_DECODERS[name]), torch.zeros(3, 16, dtype=torch.long)
    model = lively_model(family, "float32")
    model.set_attn_implementation("eager")
    model.set_experts_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        model(input_ids=tokens, use_cache=False).logits.sum().backward()
    assert counter.get_total_flops() == model_flops(family, 16).training * tokens.numel()
