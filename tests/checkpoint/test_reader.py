"""What can be opened, and every way in which a folder is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ligo.checkpoint.reader import INDEX_FILE, WEIGHTS_FILE, Checkpoint
from ligo.core.errors import CheckpointError


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Two shards of two tensors each, and their index."""
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    save_file(
        {"a": torch.arange(6.0).view(2, 3), "b": torch.zeros(4, dtype=torch.bfloat16)},
        folder / "x.safetensors",
    )
    save_file({"c": torch.ones(5), "d": torch.ones(1)}, folder / "y.safetensors")
    write_index(
        folder, {"a": "x.safetensors", "b": "x.safetensors", "c": "y.safetensors", "d": "y.safetensors"}
    )
    yield folder


def write_index(folder: Path, weight_map: dict[str, str]) -> None:
    (folder / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        Checkpoint.open(folder)
    assert "Try" in str(error.value)
    return str(error.value)


def test_shards_are_read_as_one(folder: Path) -> None:
    checkpoint = Checkpoint.open(folder)
    assert checkpoint.config == {"model_type": "llama"}
    assert checkpoint.shapes == {"a": (2, 3), "b": (4,), "c": (5,), "d": (1,)}
    assert checkpoint.dtypes == {"a": "F32", "b": "BF16", "c": "F32", "d": "F32"}
    assert checkpoint.num_bytes == 4 * 6 + 2 * 4 + 4 * 5 + 4
    assert checkpoint.read("b").dtype == torch.bfloat16
    torch.testing.assert_close(checkpoint.read("a"), torch.arange(6.0).view(2, 3))


def test_a_real_checkpoint(stories260k: Path) -> None:
    checkpoint = Checkpoint.open(stories260k)
    assert len(checkpoint.shapes) == 47 and checkpoint.num_bytes == 4 * 260_032
    assert "lm_head.weight" not in checkpoint.shapes  # tied
    text = "Once upon a time"
    tokenizer = checkpoint.tokenizer()
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True).strip() == text


def test_opening_needs_no_torch(folder: Path) -> None:
    code = (
        "import sys, pathlib; from ligo.checkpoint.reader import Checkpoint\n"
        f"assert Checkpoint.open(pathlib.Path({str(folder)!r})).shapes['a'] == (2, 3)\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_tensor_is_named_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    save_file({"model.norm.weight": torch.ones(2)}, tmp_path / WEIGHTS_FILE)
    with pytest.raises(
        CheckpointError, match=r"no tensor 'model.norm.wight'[\s\S]*nearest name is 'model.norm.weight'"
    ):
        Checkpoint.open(tmp_path).read("model.norm.wight")


def test_no_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "has no config.json, so it is not a Hugging Face checkpoint folder" in refusal(folder)
    (folder / "m.gguf").touch()
    assert f"Try: small.path={folder / 'm.gguf'}" in refusal(folder)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "not readable JSON"),
        ("[1]", "it is not an object"),
        ('{"a": 1, "a": 2}', "a key is there twice"),
    ],
)
def test_a_config_that_is_no_json_object(folder: Path, text: str, why: str) -> None:
    (folder / "config.json").write_text(text)
    assert why in refusal(folder) and "config.json" in refusal(folder)


def test_no_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert f"has no {WEIGHTS_FILE} and no {INDEX_FILE}" in refusal(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    words = refusal(tmp_path)
    assert "pytorch_model.bin" in words and "pickles" in words and "allow_pickle=true" in words


@pytest.mark.parametrize(
    "value", ["../x.safetensors", "/x.safetensors", "sub/x.safetensors", "..\\x.safetensors", "x.bin", 3]
)
def test_an_index_that_leads_elsewhere(folder: Path, value: str) -> None:
    shutil.copy(folder / "x.safetensors", folder.parent)
    write_index(folder, {"a": value})
    words = refusal(folder)
    assert repr(value) in words and "not the plain name of a .safetensors file" in words


def test_an_index_without_a_map(folder: Path) -> None:
    (folder / INDEX_FILE).write_text("{}")
    assert "has no 'weight_map'" in refusal(folder)


def test_a_missing_shard(folder: Path) -> None:
    (folder / "y.safetensors").unlink()
    assert "has no y.safetensors" in refusal(folder)


def test_a_truncated_file(folder: Path) -> None:
    file = folder / "y.safetensors"
    file.write_bytes(file.read_bytes()[:-3])
    assert f"{file} is damaged or was not written to its end" in refusal(folder)
    file.write_bytes(b"\xff" * 40)
    assert "is damaged" in refusal(folder)
    file.write_bytes(b"")
    assert "is damaged" in refusal(folder)


def test_a_tensor_that_its_shard_does_not_have(folder: Path) -> None:
    write_index(folder, {"a": "x.safetensors", "e": "y.safetensors"})
    assert "says that 'e' is in y.safetensors, which does not have it" in refusal(folder)
    write_index(folder, {"a": "y.safetensors", "b": "x.safetensors"})
    assert "says that 'a' is in y.safetensors" in refusal(folder)


def test_a_tensor_in_two_shards(folder: Path) -> None:
    save_file({"a": torch.ones(1), "c": torch.ones(5), "d": torch.ones(1)}, folder / "y.safetensors")
    words = refusal(folder)
    assert "'a' is in two files" in words and "x.safetensors and y.safetensors" in words


def test_links_stay_inside_or_in_the_hub_cache(folder: Path) -> None:
    repository = folder.parent / "models--a--b"
    snapshot, blobs = repository / "snapshots" / "rev", repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in folder.iterdir():
        shutil.copy(file, blobs / file.name)
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    assert len(Checkpoint.open(snapshot).shapes) == 4
    (folder.parent / "link").symlink_to(folder)
    assert len(Checkpoint.open(folder.parent / "link").shapes) == 4

    (folder / "x.safetensors").unlink()
    (folder / "x.safetensors").symlink_to(blobs / "x.safetensors")
    assert "is a link that leads out of its folder" in refusal(folder)


def test_expected_tensors_are_compared_both_ways(folder: Path) -> None:
    checkpoint = Checkpoint.open(folder)
    shapes = {"a": (2, 3), "b": (4,), "c": (5,), "d": (1,)}
    checkpoint.expect(shapes)
    with pytest.raises(CheckpointError) as error:
        checkpoint.expect({"a": (3, 2), "b": (4,), "c": (5,)} | {f"m{number}": (1,) for number in range(5)})
    words = str(error.value)
    assert "missing: m0, m1, m2 and 2 more" in words
    assert "not expected: d" in words
    assert "of another shape: a is (2, 3), not (3, 2)" in words


def test_no_tokenizer(folder: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"the tokenizer of .* cannot be loaded[\s\S]*Try: put the tokenizer.json"
    ):
        Checkpoint.open(folder).tokenizer()


def test_the_fingerprint_follows_config_and_weights(folder: Path) -> None:
    seen = {Checkpoint.open(folder).fingerprint() for _ in range(2)}
    assert len(seen) == 1
    save_file({"c": torch.ones(5), "d": torch.zeros(1)}, folder / "y.safetensors")
    seen.add(Checkpoint.open(folder).fingerprint())
    (folder / "config.json").write_text("{}")
    seen.add(Checkpoint.open(folder).fingerprint())
    assert len(seen) == 3
