"""Every shipped config composes; typos get the nearest name; values that cannot be are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ligo.config import GROW, check_training_fits, compose
from ligo.core.errors import ConfigError
from ligo.options import options, strip_plus
from ligo.plan import known_config, make_plan, plan_json

SHAPE = (
    "small=scratch",
    "small.shape={hidden_size: 64, num_hidden_layers: 1, num_attention_heads: 4, intermediate_size: 8}",
)
LLAMA = ("small=llama-7b", "target=13b")


@pytest.mark.parametrize("group", GROW.groups)
def test_every_shipped_option_composes(group: str) -> None:
    assert options(group)
    for option in options(group):
        shape = (
            "small.shape={hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 1, intermediate_size: 8}"
        )
        extra = [shape] if (group, option) == ("small", "scratch") else []
        config, text = compose([f"{group}={option}", *extra])
        assert config.seed == 0
        assert "small:" in text


def test_a_plus_before_our_own_groups_is_accepted() -> None:
    assert strip_plus(["+small=a", "+target=b", "+train.lr=1", "x=+small=1"], GROW.groups) == [
        "small=a",
        "target=b",
        "+train.lr=1",
        "x=+small=1",
    ]
    assert compose(["+small=llama-7b", "+target=13b"]) == compose(["small=llama-7b", "target=13b"])


@pytest.mark.parametrize(
    ("small", "target", "counts"),
    [
        ("llama-7b", "13b", (6_738_415_616, 13_015_864_320)),
        ("llama-33b", "65b", (32_528_943_616, 65_285_660_672)),
        ("smollm2-135m", "smollm2-200m", (134_515_008, None)),
    ],
)
def test_documented_plans_have_the_published_parameter_counts(
    small: str, target: str, counts: tuple[int, int | None]
) -> None:
    config, _ = compose([f"+small={small}", f"+target={target}", "hardware=none"])
    model = known_config(config.small)
    assert model is not None
    data = plan_json(config, make_plan(config, model))
    assert data["parameters"]["small"] == counts[0]
    assert counts[1] is None or data["parameters"]["target"] == counts[1]
    assert data["exactness"]["exact"] is False  # learned from the stack, whose layers are applied twice
    exact = replace(config, operator=compose(["operator=exact"])[0].operator)
    assert plan_json(exact, make_plan(exact, model))["exactness"]["exact"] is True


def test_training_from_scratch_takes_its_own_rate_and_the_rest_from_train() -> None:
    from ligo.config import scratch_training

    config, _ = compose(["scratch.lr=0.5", "train.batch_tokens=8192", "train.weight_decay=0.3"])
    scratch = scratch_training(config)
    assert (scratch.lr, scratch.batch_tokens, scratch.weight_decay) == (0.5, 8192, 0.3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["small=llama-7"], "small=llama-7 is not known.\n  Known: .*\n  Try: small=llama-7b"),
        (["+targt=13b"], "there is no option 'targt'(.|\n)*Try: target"),
        (["train.lrr=1"], "there is no option 'train.lrr'.\n  Try: train.lr=1"),
        (["operator.stepss=3"], "Try: operator.steps=3"),
        (["nonsense_beyond_help=3"], "--help lists them all"),
        (["train.lr=fast"], "'fast' of type 'str' could not be converted to Float(.|\n)*train.lr=VALUE of the right type"),
        (["justaword"], "not of the form key=value"),
        (["stages=[learn,wrte]"], "stages names 'wrte', which is no stage(.|\n)*Try: stages=.write."),
        (["output=xml"], "output=xml is not text or json"),
        (["write.dtype=int8"], "write.dtype=int8"),
        (["tracking.wandb=sometimes"], "not one of offline, online, off"),
        (["train.schedule=linear"], "cosine, wsd, constant"),
        (["small=scratch"], "needs its sizes(.|\n)*small.shape="),
        (["operator.evaluate_every=0"], "operator.evaluate_every=0 must be above 0"),
        (["operator.steps=-3"], "operator.steps=-3 must be above 0"),
        (["operator.noise=-1"], "operator.noise=-1 must be at least 0"),
        (["operator.batch_tokens=64"], "operator.batch_tokens=64 must be at least 128"),
        (["data.sequence_length=0"], "data.sequence_length=0 must be at least 1"),
        (["data.validation_tokens=5"], "data.validation_tokens=5 must be at least 128"),
        (["write.shard_bytes=0"], "write.shard_bytes=0 must be at least 1"),
        ([*LLAMA, "data.sequence_length=4096", "operator=exact"], "longer than the 2048 positions(.|\n)*Try: data.sequence_length=2048"),
        ([*SHAPE, "small.train.schedule=linear"], "small.train.schedule=linear"),
        ([*SHAPE, "small.shape.num_kv_heads=1"], "no size 'num_kv_heads'(.|\n)*num_key_value_heads"),
        ([*SHAPE, "small.shape.num_attention_heads=0"], "num_attention_heads=0 must be at least 1"),
        ([*SHAPE, "small.shape.hidden_size=30"], "30 must divide into 4 heads, 2 coordinates"),
        ([*SHAPE, "small.shape.vocab_size=100"], "vocab_size=100 must be at least 257"),
        ([*LLAMA, "small.train_tokens=-1e9"], "small.train_tokens=-1e\\+09 must be above 0"),
        ([*LLAMA, "small.train_sequence_length=0"], "small.train_sequence_length=0 must be at least 1"),
        (["scratch.max_tokens=100"], "scratch.max_tokens=100 is less than one step of 1024 tokens .train.batch_tokens."),
        (["small=scratch", "small.shape.hidden_size=8"], "small.shape lacks num_hidden_layers"),
        ([*LLAMA, "operator=ligo", "operator.init=exakt"], "operator.init=exakt(.|\n)*Try: operator.init=exact"),
        ([*LLAMA, "operator=bert2bert", "operator.init=stack"], "operator=bert2bert is not learned(.|\n)*Try: operator=ligo operator.init=stack"),
        ([*LLAMA, "operator.width=net3net"], "width operator 'net3net' is not known"),
    ],
)  # fmt: skip
def test_wrong_input_is_refused_with_what_to_type(arguments: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config, _ = compose(arguments)
        model = known_config(config.small)
        make_plan(config, model or {})


@pytest.mark.parametrize("path", ["~/m", "/tmp/x (1)/m", "/tmp/a=b", "/tmp/a,b", "it's", "a b/[c]"])
def test_any_file_name_can_be_typed(path: str) -> None:
    config, _ = compose([f"small.path={path}", f"run.dir={path}", f"data.path={path}"])
    assert (config.small.path, config.run.dir, config.data.path) == (path, path, path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train.batch_tokens=1000"], "does not divide into windows of 128 tokens"),
        (["train.micro_batch_tokens=384"], "train.micro_batch_tokens=384"),
        (["deepspeed.bf16.enabled=true"], "deepspeed.bf16 follows from the train options"),
        (["deepspeed.zero_optimization.stage=7"], "stage=7 is no ZeRO stage"),
    ],
)
def test_training_that_cannot_be_is_refused_before_any_work(arguments: list[str], words: str) -> None:
    config, _ = compose(arguments)
    with pytest.raises(ConfigError, match=words):
        check_training_fits(config)


def test_several_ranks_cannot_learn_maps_by_muon_with_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    config, _ = compose(["operator.optimizer=muon", "deepspeed=zero2", "stages=[learn,write]"])
    check_training_fits(config)  # one process learns without ZeRO
    monkeypatch.setattr("ligo.core.distributed.world_size", lambda: 2)
    with pytest.raises(
        ConfigError, match="ZeRO-2 gives the optimiser flat pieces(.|\n)*Try: deepspeed=zero0"
    ):
        check_training_fits(config)
    whole, _ = compose(["operator.optimizer=muon", "deepspeed=zero0", "stages=[learn,write]"])
    check_training_fits(whole)


def test_deepspeeds_own_keys_pass_through() -> None:
    config, _ = compose(["deepspeed=zero3", "deepspeed.zero_optimization.overlap_comm=false"])
    assert config.deepspeed == {"zero_optimization": {"stage": 3, "overlap_comm": False}}
