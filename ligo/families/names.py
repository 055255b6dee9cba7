"""Tensors on disk under older names than a family's table has, or beside those in it.

transformers loads such checkpoints, and this follows its rules: names with or without the base model's prefix
(`base_model_prefix`), `LayerNorm.gamma` and `LayerNorm.beta`, tied tensors under the name of either, and more than the
model needs. What none of these explains keeps its name, to be refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ligo.core.errors import CheckpointError
from ligo.families.base import Family

# Buffers that old checkpoints carry and every model computes for itself.
_BUFFERS = (
    "rotary_emb.inv_freq",
    ".attention.bias",  # causal masks: GPT-NeoX, and GPT-2 below
    ".attention.masked_bias",
    ".attn.bias",
    ".attn.masked_bias",
    "embeddings.position_ids",
)


@dataclass(frozen=True)
class DiskNames:
    """What the tensors of a checkpoint are called in a family's table."""

    on_disk: dict[str, str] = field(default_factory=dict)
    """Name in the table -> on disk; a tensor that no rule explains is here under its own name."""
    copies: dict[str, str] = field(default_factory=dict)
    """On disk -> name in the table of the tensor that it is tied to, which is there as well."""
    left_out: dict[str, str] = field(default_factory=dict)
    """On disk -> why the model does not need it."""


def disk_names(names: Iterable[str], family: Family) -> DiskNames:
    """Find every tensor of a checkpoint in the family's table.

    Args:
        names: those on disk.

    Raises:
        CheckpointError: two of them are the same tensor of the model.
    """
    found, tied_to = DiskNames(), {alias: spec.name for spec in family.tensors for alias in spec.aliases}
    tied: list[tuple[str, str]] = []
    for name in names:
        readings = list(_readings(name, family))
        table = next((reading for reading in readings if reading in family.by_name), None)
        other = next((tied_to[reading] for reading in readings if reading in tied_to), None)
        if table is not None:
            _add(found.on_disk, table, name)
        elif other is not None:
            tied.append((name, other))
        elif name.endswith(_BUFFERS):
            found.left_out[name] = "computed by the model itself"
        elif any(reading.startswith(family.other_heads) for reading in readings):
            found.left_out[name] = "of another head than the model's"
        else:
            found.on_disk[name] = name
    for name, table in tied:
        if table in found.on_disk:
            found.copies[name] = table
            found.left_out[name] = f"tied to {table}"
        else:
            _add(found.on_disk, table, name)
    return found


def _readings(name: str, family: Family) -> Iterator[str]:
    """What a name on disk may stand for, itself first."""
    prefix, name = f"{family.body}.", with_norms_of_today(name)
    yield name
    yield name.removeprefix(prefix) if name.startswith(prefix) else prefix + name


def with_norms_of_today(name: str) -> str:
    """A name with weight and bias for what the first BERT called gamma and beta."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _add(on_disk: dict[str, str], table: str, name: str) -> None:
    if table in on_disk:
        raise CheckpointError(
            f"the tensor '{table}' is there twice, as '{on_disk[table]}' and as '{name}'; which one counts cannot be "
            "known.\n  Try: download the checkpoint again, or save it again with save_pretrained"
        )
    on_disk[table] = name
