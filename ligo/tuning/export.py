"""What tuning leaves: a stock model with its tokenizer, or a stock PEFT folder; each with a card and ligo.json.

Both may be published, so no path of this machine gets into them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ligo.checkpoint.assets import inherited_license, write_stock_files
from ligo.checkpoint.hashes import write_hashes
from ligo.checkpoint.reader import Checkpoint
from ligo.checkpoint.writer import write_weights
from ligo.core.files import write_json, write_text
from ligo.core.redact import public_name, published
from ligo.core.run import versions
from ligo.tuning.adapters import RECORD


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """How a model was tuned, for its card."""

    base_model: str
    """Hub id or name."""
    base_fingerprint: str
    method: str
    """full, lora or vera."""
    quantization: str
    adapter: Mapping[str, Any]
    """The keys of PEFT's config that were given; none where an adapter was gone on from."""
    trained_parameters: int
    examples: int
    steps: int
    batch_size: int
    peak_lr: float
    schedule: str
    start_loss: float
    """Validation loss before, in nats per token of a response."""
    loss: float
    """The same after."""
    bits_per_byte: float
    """The same in bits per byte of the responses, which compares tokenizers."""


def write_model(
    folder: Path, weights: Iterable[tuple[str, Tensor]], source: Checkpoint, tuned: Tuned, *, merged: bool = False
) -> None:  # fmt: skip
    """Write a stock Hugging Face folder in float32.

    Args:
        folder: a fresh one from `folder_aside`.
        weights: under their names on disk.
        source: the checkpoint that was tuned.
        merged: whether an adapter was added to the weights.
    """
    write_weights(folder, weights)
    write_stock_files(folder, config={**source.config, "dtype": "float32"}, source_folder=source.folder)
    note = "The adapter is added into the weights" if merged else "All weights were trained"
    if merged and tuned.quantization != "none":
        note += f", which are those of the base as it is stored; it was trained beside them in {tuned.quantization}"
    _write_card(folder, source, tuned, f"{note}.", _LOAD_MODEL)
    write_hashes(folder)


def write_adapter_card(folder: Path, source: Checkpoint, tuned: Tuned) -> None:
    """The card and the record of a PEFT folder."""
    _write_card(folder, source, tuned, "The folder holds the adapter alone.", _LOAD_ADAPTER)
    write_hashes(folder)


def _write_card(folder: Path, source: Checkpoint, tuned: Tuned, note: str, load: str) -> None:
    from huggingface_hub import ModelCardData

    record = {**published(asdict(tuned)), "base_model": public_name(tuned.base_model)}
    is_adapter = load is _LOAD_ADAPTER
    license_fields = inherited_license(source.folder)
    front_matter = ModelCardData(
        base_model=record["base_model"],
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["ligo", "instruction-tuning"],
        license=license_fields.get("license"),
        license_name=license_fields.get("license_name"),
        license_link=license_fields.get("license_link"),
    )
    rows = {
        "method": tuned.method if tuned.quantization == "none" else f"{tuned.method}, base in {tuned.quantization}",
        "trained parameters": f"{tuned.trained_parameters:,}",
        "examples": f"{tuned.examples:,}",
        "steps": f"{tuned.steps:,}, of {tuned.batch_size} examples",
        "peak rate": f"{tuned.peak_lr:g}, {tuned.schedule}",
        "validation loss": f"{tuned.start_loss:.4f} -> {tuned.loss:.4f} nats per token of a response "
        f"({tuned.bits_per_byte:.4f} bits per byte)",
    }  # fmt: skip
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    write_text(
        folder / "README.md",
        f"---\n{front_matter.to_yaml()}\n---\n\n# {public_name(tuned.base_model)} tuned on instructions\n\n{note}\n"
        f"Prompts are in Alpaca's template.\n\n| | |\n|---|---|\n{table}\n\n{load}\nThe same as data: `{RECORD}`.\n",
    )
    write_json(folder / RECORD, {**record, "versions": versions()})


_LOAD_MODEL = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("DIR")
tokenizer = AutoTokenizer.from_pretrained("DIR")
```
"""
_LOAD_ADAPTER = """```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("BASE"), "DIR")
```
"""
