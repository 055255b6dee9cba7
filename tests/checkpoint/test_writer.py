"""What is written loads with stock transformers, and what goes wrong leaves nothing behind."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from xxhash import xxh3_128

from ligo.checkpoint.reader import INDEX_FILE, WEIGHTS_FILE, Checkpoint
from ligo.checkpoint.writer import check_free_disk, write_weights
from ligo.core.errors import ConfigError, ResourceError
from ligo.core.files import folder_aside, write_json
from tests.conftest import random_model, tiny_config


def tensors_of(model: Any) -> dict[str, torch.Tensor]:
    """As save_pretrained keeps them: tied tensors once."""
    tied = model.config.tie_word_embeddings
    return {k: v for k, v in model.state_dict().items() if not (tied and k == "lm_head.weight")}


def write(model: Any, final: Path, **options: Any) -> dict[str, Any]:
    with folder_aside(final) as aside:
        write_json(aside / "config.json", model.config.to_dict())
        return write_weights(aside, iter(tensors_of(model).items()), **options)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("shard_bytes", "several"), [(5 * 10**9, False), (20_000, True)])
def test_stock_transformers_loads_it(tmp_path: Path, tied: bool, shard_bytes: int, several: bool) -> None:
    from transformers import AutoModelForCausalLM

    model = random_model(tiny_config(tie_word_embeddings=tied), dtype="float32")
    report = write(model, tmp_path / "grown", shard_bytes=shard_bytes)
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path / "grown", output_loading_info=True)
    assert not any(info.values()), info
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name

    checkpoint = Checkpoint.open(tmp_path / "grown")
    files = {path.name for path in (tmp_path / "grown").iterdir()} - {"config.json"}
    if several:
        count = report["num_shards"]
        assert count > 2
        shards = {f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)}
        assert files == shards | {INDEX_FILE} and set(report["checksums"]) == shards
        index = json.loads((tmp_path / "grown" / INDEX_FILE).read_text())
        assert index["metadata"]["total_size"] == report["num_bytes"]
    else:
        assert files == {WEIGHTS_FILE} == set(report["checksums"])
    assert report["num_bytes"] == checkpoint.num_bytes == sum(t.nbytes for t in tensors_of(model).values())
    for file, digest in report["checksums"].items():
        assert xxh3_128((tmp_path / "grown" / file).read_bytes()).hexdigest() == digest


def test_shards_keep_to_their_size_and_tensors_are_taken_one_by_one(tmp_path: Path) -> None:
    shards_when_asked = []

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        for name, count in (("a", 40), ("b", 40), ("c", 400), ("d", 10)):
            shards_when_asked.append(len(list(tmp_path.iterdir())))
            yield name, torch.ones(count).expand(2, count).t()  # not contiguous

    assert write_weights(tmp_path, tensors(), shard_bytes=700)["num_shards"] == 3
    assert shards_when_asked == [0, 0, 0, 1]  # a shard is written when the next tensor does not fit
    (tmp_path / "config.json").write_text("{}")
    checkpoint = Checkpoint.open(tmp_path)
    assert checkpoint.shapes == {"a": (40, 2), "b": (40, 2), "c": (400, 2), "d": (10, 2)}


def test_what_cannot_be_written(tmp_path: Path) -> None:
    one = ("a", torch.ones(1))
    with pytest.raises(ConfigError, match=r"write.shard_bytes=0 is not a size[\s\S]*Try: write.shard_bytes="):
        write_weights(tmp_path, [one], shard_bytes=0)
    with pytest.raises(ValueError, match="'a' is given twice"):
        write_weights(tmp_path, [one, one])
    with pytest.raises(ValueError, match="no tensor"):
        write_weights(tmp_path, [])


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
]


@pytest.mark.parametrize("failure", FULL, ids=["OSError", "SafetensorError"])
@pytest.mark.parametrize("earlier", [False, True])
def test_a_full_disk_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception, earlier: bool
) -> None:
    model, final = random_model(tiny_config(), dtype="float32"), tmp_path / "grown"
    if earlier:
        write(model, final)
    before = sorted(tmp_path.rglob("*"))
    saved = []

    def save_file(tensors: dict[str, torch.Tensor], file: Path, metadata: dict[str, str]) -> None:
        saved.append(file.write_bytes(b"half"))
        if len(saved) == 2:
            raise failure

    monkeypatch.setattr("safetensors.torch.save_file", save_file)
    with pytest.raises(ResourceError, match=r"the disk is full while writing[\s\S]*Try: free some space"):
        write(model, final, shard_bytes=20_000)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unwritable_folder(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="cannot write .*: No such file or directory"):
        write_weights(tmp_path / "absent", [("a", torch.ones(1))])


def test_free_disk_is_asked_before_work(tmp_path: Path) -> None:
    check_free_disk(tmp_path / "not" / "yet" / "there", 1)
    with pytest.raises(ResourceError) as error:
        check_free_disk(tmp_path / "not" / "yet" / "there", 2**60)
    assert re.search(r"needs 1048576.0 TiB, but [\d.]+ [KMGT]iB are free", str(error.value))
    assert "run.dir=DIR" in str(error.value)
    assert not (tmp_path / "not").exists()
