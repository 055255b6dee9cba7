"""The folder around the weights: stock, complete, and without a path of this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ligo.checkpoint.assets import ModelCard, write_assets
from ligo.core.errors import CheckpointError
from ligo.core.redact import public_name, without_paths
from tests.conftest import tiny_config


def card(**changes: Any) -> ModelCard:
    values: dict[str, Any] = {
        "name": "tiny-2x",
        "base_model": "owner/tiny",
        "operator": "ligo",
        "operator_reference": "https://arxiv.org/abs/2303.00980",
        "exactness": "The grown model computed the same function as the small one.",
        "small": {"parameters": 1_234_567, "hidden_size": 32, "loss": 3.14159},
        "target": {"parameters": 4_000_000, "hidden_size": 64, "loss": 3.0, "num_hidden_layers": 4},
    }
    return ModelCard(**values | changes)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "small"
    source.mkdir()
    settings = {
        "tokenizer_class": "X",
        "name_or_path": str(source),
        "tokenizer_file": f"{source}/t",
        "pad_token": "/a/b",
    }
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    (source / "tokenizer.json").write_text('{"version": "1.0"}')
    (source / "merges.txt").write_text("a b\n")
    (source / "README.md").write_text(
        "---\nlicense: other\nlicense_name: mine\nlicense_link: LICENSE\n---\n# x\n"
    )
    return source


def written(tmp_path: Path, source: Path, **changes: Any) -> Path:
    folder = tmp_path / "grown"
    folder.mkdir(exist_ok=True)
    config = tiny_config(dtype="float32", _name_or_path=str(source), nested={"path": f"{source}/config.json"})
    write_assets(folder, config=config, source_folder=source, card=card(**changes))
    return folder


def front_matter(folder: Path) -> dict[str, Any]:
    import yaml

    return yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])


def test_all_files_are_there(tmp_path: Path, source: Path) -> None:
    folder = written(tmp_path, source)
    assert {path.name for path in folder.iterdir()} == {
        *("config.json", "generation_config.json", "README.md", "ligo.json"),
        *("tokenizer.json", "tokenizer_config.json", "merges.txt"),
    }
    config = json.loads((folder / "config.json").read_text())
    assert config["dtype"] == "float32" and config["hidden_size"] == 32
    assert "_name_or_path" not in config and config["nested"] == {"path": "config.json"}
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation == {"_from_model_config": True, "bos_token_id": None, "eos_token_id": 0}
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    assert tokenizer == {"tokenizer_class": "X", "pad_token": "/a/b"}  # a token is no path


def test_the_generation_config_is_inherited(tmp_path: Path, source: Path) -> None:
    (source / "generation_config.json").write_text('{"temperature": 0.7}')
    assert json.loads((written(tmp_path, source) / "generation_config.json").read_text()) == {
        "temperature": 0.7
    }


def test_the_card(tmp_path: Path, source: Path) -> None:
    folder = written(tmp_path, source, notes=["Trained for 3 steps."])
    assert front_matter(folder) == {
        "base_model": "owner/tiny",
        "library_name": "transformers",
        "license": "other",
        "license_name": "mine",
        "pipeline_tag": "text-generation",
        "tags": ["ligo", "model-growth"],
    }
    text = (folder / "README.md").read_text()
    assert "| parameters | 1,234,567 | 4,000,000 |" in text
    assert "| validation loss (nats per token) | 3.142 | 3 |" in text
    assert "| layers |  | 4 |" in text
    assert "* Trained for 3 steps." in text
    assert "https://arxiv.org/abs/2303.00980" in text and "AutoModelForCausalLM.from_pretrained" in text
    data = json.loads((folder / "ligo.json").read_text())
    assert data["ligo_version"] and data["operator"] == "ligo" and data["small"]["loss"] == 3.14159


def test_no_local_path_is_published(tmp_path: Path, source: Path) -> None:
    note = f"Read from {source} and ~/models/x, see https://example.org/a/b, 1/2 of it."
    folder = written(tmp_path, source, base_model=str(source), name=str(source), notes=[note])
    assert front_matter(folder)["base_model"] == "small"
    for file in folder.iterdir():
        assert str(tmp_path) not in file.read_text(), file.name
    assert (
        "Read from small and x, see https://example.org/a/b, 1/2 of it." in (folder / "README.md").read_text()
    )


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("owner/model-1.5", "owner/model-1.5"),
        ("llama-7b", "llama-7b"),
        ("/srv/models/llama-7b", "llama-7b"),
        ("/srv/models/llama-7b/", "llama-7b"),
        ("./runs/llama", "llama"),
        ("../llama", "llama"),
        ("~/llama", "llama"),
        ("C:\\models\\llama", "llama"),
        ("C:llama", "llama"),
        ("a/b/c", "c"),
        ("package:pkg/m.gguf", "m.gguf"),
        ("/", "checkpoint"),
        ("here/model", "model"),
    ],
)
def test_names_that_may_be_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, published: str
) -> None:
    (tmp_path / "here" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert public_name(name) == published


def test_without_paths_keeps_what_is_no_path() -> None:
    value = {"a": ["gelu", 1, None, 0.5, "see https://x.org/y"], "b": "3/4", "c": "owner/model"}
    assert without_paths(value) == value
    assert without_paths({"x": "/srv/data/y", "model_name_or_path": "/z/z"}) == {"x": "y"}


def test_a_broken_or_missing_source_card_gives_no_licence(
    tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (source / "README.md").write_text("---\nlicense: [unclosed\n---\n")
    assert "license" not in front_matter(written(tmp_path, source))
    assert "no licence is inherited" in capsys.readouterr().err
    (source / "README.md").unlink()
    assert "license" not in front_matter(written(tmp_path, source))


def test_a_non_commercial_licence_is_told(
    tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (source / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    assert front_matter(written(tmp_path, source))["license"] == "cc-by-nc-4.0"
    assert "forbids commercial use" in capsys.readouterr().err


def test_the_dtype_must_be_known(tmp_path: Path, source: Path) -> None:
    with pytest.raises(ValueError, match="names the dtype"):
        write_assets(tmp_path, config=tiny_config(), source_folder=source, card=card())


def test_a_tokenizer_that_links_elsewhere_is_not_published(tmp_path: Path, source: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (source / "vocab.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match=r"vocab.txt is a link that leads out of its folder"):
        written(tmp_path, source)
