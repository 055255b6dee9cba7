"""What a folder may say and hold is read; what would lead elsewhere, or ask for too much, is refused by name.

Ways out of a folder, pickles and hostile JSON have campaigns of their own in tests/trust.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ligo.checkpoint.hashes import write_hashes
from ligo.checkpoint.inspect import inspect_checkpoint, read_config
from ligo.checkpoint.load import load_model, load_tokenizer
from ligo.checkpoint.reader import Checkpoint
from ligo.checkpoint.strict_json import read_json_object
from ligo.core.errors import CheckpointError
from ligo.families.stock import expected_shapes, model_class
from tests.trust.samples import CONFIG, family, open_all, published, weights, write_index


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return published(tmp_path / "small")


def says(folder: Path, **keys: object) -> Path:
    (folder / "config.json").write_text(json.dumps({**CONFIG, **keys}))
    return folder


def test_what_is_published_with_code_and_pickles_is_read_without_them(folder: Path) -> None:
    says(folder, auto_map={"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}, rope_theta=5e9)
    (folder / "code.py").write_text("raise SystemExit('ran')")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    places = {"tokenizer_file": "/nowhere/tokenizer.json", "special_tokens_map_file": "/nowhere/map.json"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**settings, **places, "model_max_length": 10**30})
    )
    for name in ("pytorch_model.bin", "optimizer.pt", "training_args.bin"):
        (folder / name).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    open_all(folder)
    model = load_model(model_class(family()), folder)
    assert torch.equal(model.lm_head.weight, weights()["lm_head.weight"])


def test_a_tokenizer_needs_no_weights(folder: Path) -> None:
    for file in (*folder.glob("*.safetensors"), folder / "config.json"):
        file.unlink()
    assert len(load_tokenizer(folder)) > 100


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("num_labels", 10**9, "num_labels=1e+09, and no model has more than 1,000,000"),
        ("hidden_size", 10**9, "hidden_size=1e+09, and no model has more than 10,000,000"),
        ("num_hidden_layers", 20_000, "num_hidden_layers=20000, and no model has more than 2,000"),
        ("vision", {"sizes": [1, 10**12]}, "sizes=1e+12"),
        ("transformers_weights", "other.safetensors", "transformers would read other weights"),
        ("configuration_files", ["config.5.0.0.json"], "transformers would read another config"),
        ("attn_implementation", "some/kernel", "which is code from the hub, and is not run"),
    ],
)
def test_a_config_that_asks_for_too_much(folder: Path, key: str, value: object, why: str) -> None:
    with pytest.raises(CheckpointError) as error:
        read_config(says(folder, **{key: value}))
    assert why in str(error.value) and "config.json" in str(error.value) and "Try" in str(error.value)


@pytest.mark.parametrize(
    "sizes", [{"hidden_size": 10**7}, {"num_hidden_layers": 2000}, {"vocab_size": 10**7}]
)
def test_a_model_that_the_files_cannot_hold_is_not_built(folder: Path, sizes: dict[str, int]) -> None:
    with pytest.raises(
        CheckpointError,
        match=r"describes .* layers of width .*, and the files hold 21 tensors of 5,456 numbers",
    ):
        Checkpoint.open(says(folder, **sizes))


def test_packed_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has a quantization_config: its weights are packed"):
        Checkpoint.open(says(folder, quantization_config={"quant_method": "bitsandbytes"}))
    tensors = weights() | {"model.norm.weight": torch.ones(16, dtype=torch.int8)}
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    save_file(tensors, says(folder) / "model.safetensors")
    with pytest.raises(CheckpointError, match="no floating-point numbers: model.norm.weight is I8"):
        Checkpoint.open(folder).expect(expected_shapes(family()))


def test_tensors_that_the_index_does_not_name(folder: Path) -> None:
    names = list(weights())
    write_index(
        folder, {name: "x.safetensors" for name in names[: len(names) // 2]} | {names[-1]: "y.safetensors"}
    )
    with pytest.raises(
        CheckpointError, match=r"does not name 10 tensors that its files hold, .* in y.safetensors for one"
    ):
        inspect_checkpoint(folder)


def test_a_folder_of_ours_is_compared_with_its_checksums(folder: Path) -> None:
    write_hashes(folder)
    open_all(folder)
    shard = folder / "y.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\7")
    for opens in (
        inspect_checkpoint,
        Checkpoint.open,
        lambda f: load_model(model_class(family()), f),
        load_tokenizer,
    ):
        with pytest.raises(CheckpointError, match="y.safetensors is not what was saved"):
            opens(folder)


def test_json_with_numbers_of_every_size_that_is_needed(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text(
        '{"limit": 1000000000000000019884624838656, "small": -1e-300, "one": [1, 2.5, null, "\\u00e9"]}'
    )
    assert read_json_object(file)["limit"] == 1000000000000000019884624838656
    file.write_text('{"a": 1e39}')
    with pytest.raises(CheckpointError, match="1e39 is no number to compute with"):
        read_json_object(file)
