"""The options of the data: what to train on, in which parts, and how it is cut into sequences."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from fractions import Fraction

from ligo.core.checks import check_between, check_choice
from ligo.core.errors import ConfigError, nearest

ATTEND = ("across", "within")
WHEN_EXHAUSTED = ("repeat", "stop")
AUGMENTATIONS = ("flip", "crop")


@dataclass(kw_only=True)
class SourceConfig:
    """One source of a mixture; what is null is as in `data`."""

    path: str | None = None
    """As data.path."""
    weight: float | None = None
    """Part of all sequences that come from it, of 1 or of 100."""
    validation_path: str | None = None
    """As data.validation_path."""
    text_key: str | None = None
    """As data.text_key."""
    group_keys: list[str] | None = None
    """As data.group_keys."""
    document_separator: str | None = None
    """As data.document_separator."""


@dataclass(kw_only=True)
class DataConfig:
    """The text to train on, and how it is cut into sequences."""

    name: str = "custom"
    """Shown in plans, progress and cards."""
    path: str | None = None
    """File or folder of .txt, .jsonl (both also .gz), .parquet; package:NAME/FILE; a folder that `datasets` saved;
    a hub id owner/name; or a folder of tokens, .bin and .idx, as Megatron-LM and ligo write them. Image models: .npz
    with `images` and `labels`, .csv with pixels and class in each line, or a folder of PNG and JPEG, a sub-folder
    for each class."""
    sources: dict[str, SourceConfig] = field(default_factory=dict)
    """Instead of path: a mixture, {NAME: {path: ..., weight: ...}, ...}."""
    validation_path: str | None = None
    """Text to evaluate on, in the same forms. null: hold out a part of `path`."""
    validation_fraction: float = 0.05
    """Part of the characters to hold out when there is no validation_path."""
    text_key: str = "text"
    """The key or column that holds the text, in .jsonl, .parquet and `datasets`."""
    group_keys: list[str] = field(default_factory=list)
    """Consecutive records that agree in these keys form one document, joined by line breaks."""
    document_separator: str = "<|endoftext|>"
    """What stands between documents in .txt files."""
    sequence_length: int = 128
    """Tokens per sequence."""
    attend: str = "across"
    """across: a sequence is read as one text, whatever documents it holds; within: each document in it is read alone,
    and none is guessed from another (causal models)."""
    when_exhausted: str = "repeat"
    """repeat: go through a source again, in a new order, when it ends; stop: refuse a budget that needs that."""
    augment: list[str] = field(default_factory=list)
    """What images that are trained on go through, anew each time: flip (left to right, half of them) and crop (moved by
    up to an eighth of the side, black follows). Empty: nothing."""
    validation_tokens: int = 32768
    """Largest size of the fixed evaluation set, in tokens."""
    num_workers: int | None = None
    """Processes that tokenise. null: one for each core."""
    extra: str = "data"
    """The extra of ligo that installs the package of a package: path."""
    cache_dir: str | None = None
    """Where tokens and decoded images are kept. null: $LIGO_CACHE, or ~/.cache/ligo."""

    @property
    def section(self) -> str:
        """Where these options are typed, for messages."""
        return "data"

    def of_source(self, name: str) -> DataConfig:
        """The options of one source of the mixture."""
        source = self.sources[name]
        own = {key: value for key, value in vars(source).items() if value is not None and key != "weight"}
        shared = {item.name: getattr(self, item.name) for item in fields(DataConfig)}
        shared |= {"sources": {}, "path": None, "validation_path": None, "name": name}
        return _OneSource(**{**shared, **own})


@dataclass(kw_only=True)
class _OneSource(DataConfig):
    @property
    def section(self) -> str:
        return f"data.sources.{self.name}"


def check(config: DataConfig) -> None:
    """Refuse values that are no choice, and weights that are no mixture.

    Raises:
        ConfigError: the value, and what to type instead.
    """
    for key, choices in (("attend", ATTEND), ("when_exhausted", WHEN_EXHAUSTED)):
        check_choice(f"data.{key}", getattr(config, key), choices)
    for name in config.augment:
        check_choice("data.augment", name, AUGMENTATIONS)
    if config.num_workers is not None:
        check_between("data.num_workers", config.num_workers, 1, 4096)
    if config.sources:
        if config.path or config.validation_path:
            raise ConfigError(
                f"data.sources names a mixture, and data.path={config.path} or data.validation_path="
                f"{config.validation_path} a text beside it.\n  Try: data=custom with data.sources, "
                "and validation_path inside a source"
            )
        source_weights(config)


def source_weights(config: DataConfig) -> dict[str, Fraction]:
    """The part of every source, as exact fractions that sum to 1, of at most five decimals.

    Raises:
        ConfigError: a weight is missing or not positive, or they sum to neither 1 nor 100.
    """
    weights: dict[str, Fraction] = {}
    for name, source in config.sources.items():
        if source.weight is None:
            others = [other for other in config.sources if other != name]
            close = nearest(name, others)
            raise ConfigError(
                f"data.sources.{name} has no weight.\n  Sources: {', '.join(config.sources)}.\n  Try: "
                + (f"data.sources.{close}, if that was meant" if close else f"data.sources.{name}.weight=0.5")
            )
        check_between(f"data.sources.{name}.weight", source.weight, 1 / _UNITS, 100)
        weights[name] = Fraction(str(source.weight))
    total = sum(weights.values(), Fraction(0))
    if not any(abs(total - whole) <= Fraction(whole, 10**5) for whole in (1, 100)):
        listed = " + ".join(f"{float(weight):g}" for weight in weights.values())
        scaled = ", ".join(f"{name}: {float(weight / total):.4g}" for name, weight in weights.items())
        raise ConfigError(
            f"the weights of data.sources sum to {listed} = {float(total):g}, and must sum to 1 (or 100).\n"
            f"  Try: weights in the same proportion: {scaled}"
        )
    exact = {name: weight / total for name, weight in weights.items()}
    if math.lcm(*(weight.denominator for weight in exact.values())) <= _UNITS:
        return exact
    units = {name: max(1, round(weight * _UNITS)) for name, weight in exact.items()}
    largest = max(units, key=lambda name: units[name])
    units[largest] += _UNITS - sum(units.values())
    return {name: Fraction(count, _UNITS) for name, count in units.items()}


_UNITS = 10**5  # weights are rounded to this where they have more digits
