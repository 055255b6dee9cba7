"""The models to evaluate: checkpoint folders, runs of ligo, adapters beside their base."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ligo.checkpoint.locate import Source, locate
from ligo.checkpoint.reader import Checkpoint
from ligo.core.checks import check_choice
from ligo.core.errors import CheckpointError, ConfigError, nearest
from ligo.families.positions import num_positions

if TYPE_CHECKING:
    from ligo.families.base import Family

DTYPES = ("auto", "float16", "bfloat16", "float32", "float64")
DEVICES = ("auto", "cpu", "cuda")
_ADAPTER_FILE, _ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"


@dataclass(kw_only=True)
class ModelConfig:
    """One of the models."""

    path: str | None = None
    """A checkpoint folder or .gguf file; a run folder of ligo, which stands for its `trained`, else its `grown`, else its
    `adapter`; or a PEFT folder."""
    base: str | None = None
    """PEFT folders: the checkpoint that the adapter was tuned beside, given as path is."""


@dataclass(kw_only=True)
class ComputeConfig:
    """Where and in which precision models run."""

    device: str = "auto"
    """cpu, cuda, or auto: a GPU if there is one."""
    dtype: str = "auto"
    """auto: as stored; or float16, bfloat16, float32, float64."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model that was found and whose weights have not been read."""

    name: str
    """As in the tables."""
    checkpoint: Checkpoint
    adapter: Path | None
    compute: ComputeConfig

    @classmethod
    def open(cls, name: str, config: ModelConfig, compute: ComputeConfig) -> Model:
        """Find a model; reads headers only.

        Raises:
            ConfigError: no path, or an adapter without a base, or a base without an adapter.
            CheckpointError: what is there is no model, or the adapter belongs to another base.
        """
        if config.path is None:
            raise ConfigError(
                f"models.{name} has no path.\n  Try: models.{name}.path=DIR, a checkpoint or a run folder"
            )
        place = _inside_run(Path(config.path).expanduser())
        if not (place / _ADAPTER_CONFIG).is_file():
            if config.base is not None:
                raise ConfigError(
                    f"models.{name}.base={config.base} is for adapters, and {place} is none: it has no {_ADAPTER_CONFIG}.\n"
                    f"  Try: models.{name}.path=DIR without a base"
                )
            return cls(name=name, checkpoint=_open(name, place), adapter=None, compute=compute)
        if config.base is None:
            raise ConfigError(
                f"models.{name}.path={config.path} is an adapter, and a model only beside the checkpoint that it was tuned "
                f"beside.\n  Try: models.{name}.base=DIR"
            )
        checkpoint = _open(name, _inside_run(Path(config.base).expanduser()))
        _check_belongs(place, checkpoint)
        return cls(name=name, checkpoint=checkpoint, adapter=place, compute=compute)

    @property
    def config(self) -> dict[str, Any]:
        """config.json"""
        return self.checkpoint.config

    @property
    def max_positions(self) -> int | None:
        """Tokens that the model can see at once; None where its config.json names no such limit."""
        return num_positions(self.config)

    def fingerprint(self) -> str:
        """Of config, headers, samples of the weights, and the whole adapter."""
        if self.adapter is None:
            return self.checkpoint.fingerprint()
        adapter = (self.adapter / _ADAPTER_FILE).read_bytes() + (self.adapter / _ADAPTER_CONFIG).read_bytes()
        return hashlib.sha256(self.checkpoint.fingerprint().encode() + adapter).hexdigest()

    def tokenizer(self) -> Any:
        """The tokenizer in the checkpoint's folder.

        Raises:
            CheckpointError: there is none.
        """
        return self.checkpoint.tokenizer()

    def family(self) -> Family | None:
        """None where ligo knows no such architecture."""
        from ligo.families.base import family_of

        try:
            return family_of(self.config)
        except CheckpointError:
            return None

    def device(self) -> str:
        import torch

        if self.compute.device != "auto":
            return self.compute.device
        return "cuda" if torch.cuda.is_available() else "cpu"

    def load(self, auto_class: Any = None) -> Any:
        """The model with its weights, in evaluation mode on its device.

        Args:
            auto_class: of transformers; AutoModelForCausalLM if None.

        Raises:
            CheckpointError: transformers cannot load it so.
        """
        import torch
        import transformers

        from ligo.checkpoint.load import load_model

        made = auto_class or transformers.AutoModelForCausalLM
        dtype = self.compute.dtype if self.compute.dtype == "auto" else getattr(torch, self.compute.dtype)
        try:
            model = load_model(made, self.checkpoint.folder, dtype=dtype)
        except (OSError, ValueError, KeyError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise CheckpointError(
                f"models.{self.name}: transformers cannot load {self.checkpoint.folder} by {made.__name__}: {reason}\n"
                f"  Try: models.{self.name}.path=ANOTHER_FOLDER"
            ) from error
        if self.adapter is not None:
            from ligo.tuning.adapters import load_adapter

            model = load_adapter(model, self.adapter)
        return model.eval().to(self.device())


def check(models: dict[str, ModelConfig], compute: ComputeConfig) -> None:
    """Refuse no models, names that no file can have, and words that are no choice.

    Raises:
        ConfigError: the key and the choices.
    """
    if not models:
        raise ConfigError(
            "there is no model to evaluate.\n  Try: models.NAME.path=DIR, once for each model, under names of your choice"
        )
    for name in models:
        plain = re.sub(r"[^\w-]", "-", name)
        if plain != name or not name:  # it names files and stands in tables
            raise ConfigError(
                f"the name of a model may hold letters, digits, '_' and '-', and {name!r} does not.\n"
                f"  Try: models.{plain or 'NAME'}.path="
            )
    check_choice("compute.device", compute.device, DEVICES)
    check_choice("compute.dtype", compute.dtype, DTYPES)


def _inside_run(place: Path) -> Path:
    """The model of a run folder, or the folder itself."""
    if (place / "manifest.json").is_file() and not (place / "config.json").is_file():
        for name in ("trained", "grown", "adapter"):
            if (place / name).is_dir():
                return place / name
        raise CheckpointError(
            f"the run {place} has neither trained nor grown nor adapter: it has not come that far.\n"
            "  Try: the command of its manifest.json again, or another path"
        )
    return place


def _open(name: str, place: Path) -> Checkpoint:
    option = f"models.{name}.path"
    if not place.exists():
        there = [other.name for other in place.parent.iterdir()] if place.parent.is_dir() else []
        close = nearest(place.name, there)
        raise CheckpointError(
            f"{option}: there is no {place}.\n  Try: {option}={place.with_name(close) if close else 'DIR'}"
        )
    try:
        return Checkpoint.open(locate(Source(name=name, path=str(place))))
    except CheckpointError as error:  # it says how the checkpoints of other commands are given
        raise CheckpointError(str(error).replace("small.path", option)) from error


def _check_belongs(adapter: Path, base: Checkpoint) -> None:
    from ligo.checkpoint.reader import read_json_object

    for file in (_ADAPTER_FILE, _ADAPTER_CONFIG):
        if not (adapter / file).is_file():
            raise CheckpointError(
                f"the adapter {adapter} has no {file}.\n  Try: RUN/adapter of a finished run"
            )
    if not (adapter / "ligo.json").is_file():
        return
    there, here = read_json_object(adapter / "ligo.json").get("base_fingerprint"), base.fingerprint()
    if there not in (None, here):
        raise CheckpointError(
            f"the adapter {adapter} was tuned beside another checkpoint (fingerprint {there[:8]}, that of {base.folder} is "
            f"{here[:8]}), and beside this one it means nothing.\n  Try: base= of that checkpoint"
        )
