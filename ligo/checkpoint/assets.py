"""What makes a folder of weights a model that others can use: config, tokenizer, card, and ligo.json.

What is written here may be published, so no path of this machine gets into it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import ligo
from ligo.checkpoint.inspect import file_inside
from ligo.checkpoint.strict_json import read_json_object
from ligo.core.errors import disk_full
from ligo.core.files import write_json, write_text
from ligo.core.log import warn
from ligo.core.redact import public_name, published, without_paths

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)
"""Copied as they are; tokenizer_config.json goes along without the paths that it may hold."""

_LABELS = {
    "ffn_size": "FFN size",
    "intermediate_size": "FFN size",
    "num_layers": "layers",
    "num_hidden_layers": "layers",
    "num_heads": "heads",
    "num_attention_heads": "heads",
    "num_kv_heads": "key/value heads",
    "num_key_value_heads": "key/value heads",
    "loss": "validation loss (nats per token)",
}


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """How a grown model came to be, for its README.md and ligo.json."""

    name: str
    base_model: str
    """Hub id, or a plain name; of a path only the last part is kept."""
    operator: str
    operator_reference: str
    exactness: str
    """A sentence."""
    small: Mapping[str, Any]
    """parameters, sizes, loss before growth if known; each is shown as a row."""
    target: Mapping[str, Any]
    """The same of the grown model."""
    notes: list[str] = field(default_factory=list)


def write_assets(folder: Path, *, config: Mapping[str, Any], source_folder: Path, card: ModelCard) -> None:
    """Write all but the weights into `folder`, a fresh one from `folder_aside`.

    Args:
        folder: gets config.json, generation_config.json, the tokenizer, README.md and ligo.json.
        config: the grown model's config.json; its `dtype` is that of the weights.
        source_folder: the small checkpoint, whose tokenizer and licence are inherited.
        card: what README.md and ligo.json say.

    Raises:
        CheckpointError: a file in `source_folder` leads out of it.
        ResourceError: the disk is full or cannot be written.
        ValueError: `config` has no `dtype`.
    """
    write_stock_files(folder, config=config, source_folder=source_folder)
    license_fields = inherited_license(source_folder)
    write_text(folder / "README.md", model_card(card, config=config, license_fields=license_fields))
    write_json(folder / "ligo.json", {"ligo_version": ligo.__version__, **_published(card)})


def write_stock_files(folder: Path, *, config: Mapping[str, Any], source_folder: Path) -> None:
    """Write what stock loaders read beside the weights: config.json, generation_config.json and the tokenizer.

    Raises:
        CheckpointError: a file in `source_folder` leads out of it.
        ResourceError: the disk is full or cannot be written.
        ValueError: `config` has no `dtype`.
    """
    dtype = config.get("dtype") or config.get("torch_dtype")
    if dtype is None:
        raise ValueError("the config of a model that is written names the dtype of its weights")
    settings = {key: value for key, value in config.items() if key != "torch_dtype"} | {"dtype": str(dtype)}
    write_json(folder / "config.json", without_paths(settings))
    write_json(folder / "generation_config.json", _generation_config(config, source_folder))
    copy_tokenizer(source_folder, folder)


def model_card(card: ModelCard, *, config: Mapping[str, Any], license_fields: Mapping[str, str]) -> str:
    """README.md: front matter for the hub, the growth as a table, how to load it."""
    from huggingface_hub import ModelCardData

    data = _published(card)
    generates = any(name.endswith("ForCausalLM") for name in config.get("architectures") or ())
    front_matter = ModelCardData(
        library_name="transformers",
        tags=["ligo", "model-growth"],
        base_model=data["base_model"],
        pipeline_tag="text-generation" if generates else None,
        license=license_fields.get("license"),
        license_name=license_fields.get("license_name"),
        license_link=license_fields.get("license_link"),
    )
    auto_class = "AutoModelForCausalLM" if generates else "AutoModel"
    small, target = data["small"], data["target"]
    rows = [
        f"| {_LABELS.get(key, key.replace('_', ' '))} | {_cell(small.get(key))} | {_cell(target.get(key))} |"
        for key in dict.fromkeys([*small, *target])
    ]
    notes = ["", *(f"* {note}" for note in data["notes"])] if data["notes"] else []
    return "\n".join(
        [
            "---",
            front_matter.to_yaml(),
            "---",
            "",
            f"# {data['name']}",
            "",
            f"Grown from {data['base_model']} with [ligo](https://arxiv.org/abs/2303.00980)'s operator "
            f"`{data['operator']}` ({data['operator_reference']}).",
            data["exactness"],
            "",
            "| | small | grown |",
            "|---|---:|---:|",
            *rows,
            *notes,
            "",
            "Load it with plain transformers, `DIR` being this folder or its hub id:",
            "",
            "```python",
            f"from transformers import {auto_class}, AutoTokenizer",
            "",
            f'model = {auto_class}.from_pretrained("DIR")',
            'tokenizer = AutoTokenizer.from_pretrained("DIR")',
            "```",
            "",
            "The same as data: `ligo.json`.",
            "",
        ]
    )


def _published(card: ModelCard) -> dict[str, Any]:
    return {**published(asdict(card)), "base_model": public_name(card.base_model)}


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|")


def _generation_config(config: Mapping[str, Any], source_folder: Path) -> dict[str, Any]:
    if (source_folder / "generation_config.json").is_file():
        return without_paths(read_json_object(file_inside(source_folder, "generation_config.json")))
    tokens = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if key in config}
    return {"_from_model_config": True, **tokens}


def copy_tokenizer(source_folder: Path, folder: Path) -> None:
    """Copy the files of a tokenizer that are there, without the paths in them.

    Raises:
        CheckpointError: a file in `source_folder` leads out of it.
        ResourceError: the disk is full or cannot be written.
    """
    for name in TOKENIZER_FILES:
        if (source_folder / name).is_file():
            try:
                shutil.copyfile(file_inside(source_folder, name), folder / name)
            except OSError as error:
                raise disk_full(error, folder / name) from error
    if (source_folder / "tokenizer_config.json").is_file():
        settings = read_json_object(file_inside(source_folder, "tokenizer_config.json"))
        # By key, not by looks: a chat template or a special token may well look like a path.
        places = ("name_or_path", "_file", "_path", "_dir")
        write_json(
            folder / "tokenizer_config.json",
            {key: value for key, value in settings.items() if not key.endswith(places)},
        )


def inherited_license(source_folder: Path) -> dict[str, str]:
    """license, license_name and license_link as the small checkpoint's card has them."""
    from huggingface_hub import ModelCard as HubCard

    if not (source_folder / "README.md").is_file():
        return {}
    text = file_inside(source_folder, "README.md").read_text(encoding="utf-8", errors="replace")
    try:
        front_matter = HubCard(text, ignore_metadata_errors=True).data.to_dict()
    except Exception:  # a card that nobody can parse grants nothing; the growth goes on without it
        warn(f"the front matter of {source_folder / 'README.md'} cannot be read, so no licence is inherited")
        return {}
    fields = {key: str(front_matter[key]) for key in ("license", "license_name") if front_matter.get(key)}
    link = str(front_matter.get("license_link") or "")
    if link.startswith("https://"):  # a link to a file would lead nowhere from the new folder
        fields["license_link"] = link
    if re.search(r"\bnc\b|non-?commercial", " ".join(fields.values()).lower()):
        terms = ", ".join(fields.values())
        warn(
            f"the small checkpoint's licence ({terms}) forbids commercial use, and the grown one inherits it"
        )
    return fields
