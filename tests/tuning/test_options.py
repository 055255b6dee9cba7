"""Recipes are those that were published, and what cannot be is refused before anything is written."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from ligo.core.errors import CheckpointError, ConfigError, DataError, LigoError
from ligo.options import compose_options, options
from ligo.training.config import TrainConfig
from ligo.training.schedule import learning_rate, num_steps
from ligo.tune import OPTIONS, TuneConfig
from ligo.tuning.config import training_of
from tests.tuning.tuned import checkpoint, instructions, run


def composed(*arguments: str) -> TuneConfig:
    config, _ = compose_options(["data.path=x.json", *arguments], OPTIONS)
    assert isinstance(config, TuneConfig)
    return config


def training(recipe: str, num_examples: int) -> TrainConfig:
    config = composed(f"+recipe={recipe}")
    return training_of(config.train, num_examples, config.data.max_length)


def test_every_method_and_recipe_composes() -> None:
    assert options("tuning") == ["full", "lora", "qlora", "qvera", "vera"]
    assert options("recipe") == ["alpaca-13b", "alpaca-7b", "guanaco", "guanaco-65b", "vera-llama2"]
    for method in options("tuning"):
        assert composed(f"tuning={method}").tuning.method == method.removeprefix("q")
    for recipe in options("recipe"):
        composed(f"+recipe={recipe}")


def test_alpaca() -> None:
    """52,002 examples: 1,219 steps of 128 for 7B, at 2e-5 after 3 % of warm-up."""
    seven, thirteen = training("alpaca-7b", 52_002), training("alpaca-13b", 52_002)
    assert (num_steps(seven), seven.batch_tokens, seven.lr) == (1219, 128 * 512, 2e-5)
    assert (num_steps(thirteen), thirteen.batch_tokens, thirteen.lr) == (2031, 128 * 512, 1e-5)
    assert composed("+recipe=alpaca-13b").small.name == "llama-13b"
    assert learning_rate(seven, 36) == pytest.approx(2e-5)
    assert seven.weight_decay == 0 and seven.schedule == "cosine"


def test_guanaco() -> None:
    config, plain = composed("+recipe=guanaco"), training("guanaco", 9209)
    assert (num_steps(plain), plain.batch_tokens, plain.clip, plain.optimizer) == (
        1875,
        16 * 512,
        0.3,
        "paged_adamw",
    )
    assert learning_rate(plain, 1874) == 2e-4
    tuning = config.tuning
    assert (tuning.quantization, tuning.double_quantization) == ("nf4", True)
    assert (tuning.peft["r"], tuning.peft["lora_alpha"]) == (64, 16)
    larger = composed("+recipe=guanaco-65b")
    assert (larger.small.name, larger.train.lr, larger.train.steps) == ("llama-65b", 1e-4, 1875)
    assert larger.tuning.peft == {**tuning.peft, "lora_dropout": 0.05}


def test_vera() -> None:
    tuning = composed("+recipe=vera-llama2").tuning
    assert (tuning.method, tuning.quantization, tuning.peft) == (
        "vera", "nf4", {"r": 256, "target_modules": "all-linear"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tuning.method=lorra"], r"tuning.method=lorra is not one of full, lora, vera(.|\n)*Try: tuning.method=lora"),
        (["tuning=qlorra"], r"tuning=qlorra is not known(.|\n)*Try: tuning=qlora"),
        (["tuning=full", "tuning.quantization=nf4"], r"trains the weights themselves(.|\n)*Try: tuning=lora"),
        (["tuning=full", "tuning.peft.r=4"], "tuning.peft={'r': 4} is for adapters"),
        (["train.max_tokens=5000"], r"train.max_tokens follows from the examples(.|\n)*Try: train.epochs="),
        (["train.optimizer=muon"], r"train.optimizer=muon does not go with an adapter(.|\n)*Try: train.optimizer=adamw"),
        (["train.export=last"], "checkpoints hold the adapter alone; merge=true exports the model"),
        (["train.layer_drop=0.5"], "train.layer_drop=0.5 does not go with an adapter"),
        (["data.on_long=cut"], "data.on_long=cut is not one of truncate, drop"),
        (["data.template=vicuna"], "there is no option 'data.template'"),
        (["data.path=null"], r"data.path is not set(.|\n)*Try: data.path=FILE.json"),
        (["data.max_length=1"], "data.max_length=1 must be at least 2"),
        (["train.epochs=0"], "train.epochs=0 must be above 0"),
    ],
)  # fmt: skip
def test_options_that_cannot_be(arguments: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        composed(*arguments)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("base") / "model")


def refused(
    tmp_path: Path, base: Path, records: list[Any] | None, kind: type[LigoError], words: str, *more: str
) -> None:
    """`records` None: good ones."""
    file = tmp_path / "records.jsonl"
    if records is None:
        file = instructions(tmp_path / "records.json")
    else:
        file.write_text("".join(json.dumps(record) + "\n" for record in records))
    with pytest.raises(kind, match=words) as error:
        run(tmp_path / "run", base, file, "tuning=lora", *more)
    assert error.value.exit_code == {ConfigError: 2, DataError: 3, CheckpointError: 4}[kind]
    assert not (tmp_path / "run").exists()


GOOD = {"instruction": "Name a colour.", "input": "", "output": "Blue."}


def test_a_record_without_a_field_is_named_by_its_line(tmp_path: Path, base: Path) -> None:
    records = [GOOD, GOOD, {"instruction": "Name a tree."}]
    refused(tmp_path, base, records, DataError, "records.jsonl, line 3: there is no field 'output'")


def test_too_few_examples_to_hold_any_out(tmp_path: Path, base: Path) -> None:
    refused(tmp_path, base, [GOOD], DataError, r"1 example\(s\), of which 1 would be held out")


def test_examples_that_are_all_too_long(tmp_path: Path, base: Path) -> None:
    refused(tmp_path, base, [GOOD] * 4, DataError, "no example is left", "data.max_length=10")


def test_a_tokenizer_with_more_tokens_than_the_model(tmp_path: Path) -> None:
    small = checkpoint(tmp_path / "model", vocab_size=64)
    refused(tmp_path, small, None, DataError, "and the model knows 64 tokens")


def test_examples_longer_than_the_model_can_see(tmp_path: Path) -> None:
    small = checkpoint(tmp_path / "model", max_position_embeddings=16)
    refused(tmp_path, small, None, DataError, "the model knows 16 positions(.|\n)*Try: data.max_length=16")


def test_batches_that_do_not_divide(tmp_path: Path, base: Path) -> None:
    words = "train.micro_batch_size=3 does not divide the 8 examples"
    refused(tmp_path, base, None, ConfigError, words, "train.micro_batch_size=3")


def test_a_model_that_writes_no_text(tmp_path: Path) -> None:
    from ligo.tune import OPTIONS, tune

    arguments = ["small=tiny-bert", f"data.path={instructions(tmp_path / 'a.json')}", "tracking=jsonl",
                 f"run.dir={tmp_path / 'run'}", "train.engine=torch"]  # fmt: skip
    with pytest.raises(CheckpointError, match="instructions are answered by models that write text"):
        tune(*compose_options(arguments, OPTIONS))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("package", "words"),
    [("peft", r"tuning.method=lora .*needs the package 'peft'(.|\n)*ligo\[peft\]"),
     ("bitsandbytes", r"tuning.quantization=nf4 .*needs the package 'bitsandbytes'(.|\n)*ligo\[nf4\]")],
)  # fmt: skip
def test_a_package_that_is_missing(
    tmp_path: Path, base: Path, package: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    refused(tmp_path, base, None, ConfigError, words, "tuning.quantization=nf4")


def test_the_same_folder_with_other_instructions(tmp_path: Path, base: Path) -> None:
    file = instructions(tmp_path / "words.json")
    run(tmp_path / "run", base, file, "tuning=lora", "tuning.peft.r=2", "train.steps=1")
    file.write_text(file.read_text().replace("river", "sea"))
    with pytest.raises(ConfigError, match="the text is no longer the one"):
        run(tmp_path / "run", base, file, "tuning=lora", "tuning.peft.r=2", "train.steps=1")
