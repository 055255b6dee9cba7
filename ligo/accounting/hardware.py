"""What the machine can do: the `hardware` group, and what a step takes on it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from ligo.core.checks import check_between, check_choice
from ligo.core.errors import ConfigError

METERS = ("none", "codecarbon")

_REACHED_BANDWIDTH = 0.8
"""Part of a memory's bandwidth that simple ops reach; they come nearer to it than products to theirs."""
_BYTES_PER_UPDATE = 40
"""AdamW reads weight, gradient and both moments and writes three of them; clipping reads gradients twice, writes once."""


@dataclass(kw_only=True)
class HardwareConfig:
    """`hardware=...`: the machine that a run is planned for; rates are of one device."""

    name: str = "cpu"
    """Shown in plans."""
    count: int | None = None
    """Devices to plan for, one rank on each. null: as many as there are ranks now, as in every run."""
    memory_gib: float | None = None
    """Memory of one device. null: what is free here, or the memory of the GPU that is here."""
    bf16_tflops: float | None = None
    """Peak rate of matrix products in bf16, without sparsity. null: measured here, in five seconds."""
    fp32_tflops: float | None = None
    """The same in float32 as torch runs it by default. null: measured here."""
    bandwidth_gb_s: float | None = None
    """Memory bandwidth. null: measured here."""
    link_gb_s: float | None = None
    """What one device sends to the others, in one direction. null: sending is not counted."""
    disk_gb_s: float | None = None
    """Rate at which a checkpoint is written, its checksum included. null: measured here."""
    efficiency: float = 0.45
    """Part of the peak rates that a step reaches; an assumption, and not used where rates are measured."""
    price_per_hour: float | None = None
    """What one device costs per hour, in any currency."""
    watts: float | None = None
    """Power that one device draws at work, with its share of host and cooling: an assumption, nothing is metered. null:
    energy is not estimated."""
    grams_co2_per_kwh: float | None = None
    """Emissions of the electricity used; an assumption as well. null: they are not estimated."""
    meter: str = "none"
    """none, or codecarbon: energy and emissions are also measured while stages run, as far as the machine has counters."""
    country: str | None = None
    """Where the machine stands, as three letters (DEU): whose electricity codecarbon reckons emissions with."""

    @property
    def is_measured(self) -> bool:
        """Whether rates are measured on this machine instead of read from a data sheet."""
        return None in (self.bf16_tflops, self.fp32_tflops, self.bandwidth_gb_s)

    @property
    def is_unknown(self) -> bool:
        """`hardware=none`: nothing is predicted that depends on the machine."""
        return self.name == "none"


def check(config: HardwareConfig) -> None:
    """Refuse values outside their range.

    Raises:
        ConfigError: the key, the value and the range are named.
    """
    check_choice("hardware.meter", config.meter, METERS)
    if config.meter != "none" and config.country is None:
        raise ConfigError(
            f"hardware.meter={config.meter} reckons emissions by country, and hardware.country is not set: it is not looked up "
            "on the network.\n  Try: hardware.country=DEU, where the machine stands"
        )
    for key, value in vars(config).items():
        if value is not None and key not in ("name", "efficiency", "meter", "country"):
            check_between(
                f"hardware.{key}", value, 0, above=key not in ("price_per_hour", "grams_co2_per_kwh")
            )
    check_between("hardware.efficiency", config.efficiency, 0, 1, above=True)


@dataclass(frozen=True)
class Work:
    """What something does, in the quantities that take time; of one rank."""

    product_flops: Mapping[str, float] = field(default_factory=dict)
    """FLOPs of matrix products by dtype: float32, bfloat16."""
    attention_flops: float = 0.0
    """FLOPs of fused attention."""
    moved_bytes: float = 0.0
    """What all other ops read and write."""
    num_ops: float = 0.0
    updated: float = 0.0
    """Parameters that the optimiser updates, their gradients clipped."""
    sent_bytes: float = 0.0
    """To other ranks."""
    stored_bytes: float = 0.0
    """Onto the disk."""
    drawn: float = 0.0
    """Random numbers."""

    def __add__(self, other: Work) -> Work:
        return self._with(other, 1.0)

    def times(self, factor: float) -> Work:
        return Work()._with(self, factor)

    def _with(self, other: Work, factor: float) -> Work:
        dtypes = sorted({*self.product_flops, *other.product_flops})
        products = {
            d: self.product_flops.get(d, 0.0) + factor * other.product_flops.get(d, 0.0) for d in dtypes
        }
        sums = {
            f.name: getattr(self, f.name) + factor * getattr(other, f.name)
            for f in fields(self)
            if f.name != "product_flops"
        }
        return Work(products, **sums)

    @property
    def flops(self) -> float:
        return sum(self.product_flops.values()) + self.attention_flops


@dataclass(frozen=True)
class Rates:
    """What one device does per second."""

    product_flops: Mapping[str, float]
    """By dtype."""
    attention_flops: float
    moved_bytes: float
    updated: float
    stored_bytes: float
    drawn: float
    sent_bytes: float = math.inf
    op_s: float = 0.0
    """Seconds that starting an op takes."""

    def seconds(self, work: Work) -> float:
        """Each part at its own rate, one after the other."""
        slowest = min(self.product_flops.values())
        return (
            sum(flops / self.product_flops.get(dtype, slowest) for dtype, flops in work.product_flops.items())
            + work.attention_flops / self.attention_flops
            + work.moved_bytes / self.moved_bytes
            + work.num_ops * self.op_s
            + work.updated / self.updated
            + work.sent_bytes / self.sent_bytes
            + work.stored_bytes / self.stored_bytes
            + work.drawn / self.drawn
        )

    def shared_by(self, processes: int) -> Rates:
        """What each of several processes on the same cores has."""
        products = {dtype: rate / processes for dtype, rate in self.product_flops.items()}
        names = ("attention_flops", "moved_bytes", "updated", "stored_bytes", "drawn")
        return replace(
            self, product_flops=products, **{name: getattr(self, name) / processes for name in names}
        )


def sheet_rates(config: HardwareConfig) -> Rates:
    """The rates of a data sheet, as far as they are reached."""
    assert config.bf16_tflops and config.fp32_tflops and config.bandwidth_gb_s
    bf16, fp32 = (1e12 * config.efficiency * rate for rate in (config.bf16_tflops, config.fp32_tflops))
    bandwidth = _REACHED_BANDWIDTH * 1e9 * config.bandwidth_gb_s
    return Rates(
        product_flops={"bfloat16": bf16, "float16": bf16, "float32": fp32},
        attention_flops=bf16,
        moved_bytes=bandwidth,
        updated=bandwidth / _BYTES_PER_UPDATE,
        stored_bytes=1e9 * (config.disk_gb_s or 1.0),
        drawn=1e9,
        sent_bytes=1e9 * config.link_gb_s if config.link_gb_s else math.inf,
    )


def has_gpu(hardware: HardwareConfig) -> bool:
    """Whether ranks are planned for GPUs."""
    import torch

    return not hardware.is_measured or torch.cuda.is_available()


def rank_memory(hardware: HardwareConfig, ranks: int) -> float | None:
    """Bytes that each of so many ranks may hold; None: not known."""
    import torch

    if hardware.memory_gib is not None:
        return hardware.memory_gib * 2**30
    if torch.cuda.is_available():
        return float(torch.cuda.mem_get_info()[1])
    free = free_memory()
    return None if free is None else free / ranks


def free_memory() -> int | None:
    """Bytes that processes can still have here, where the system says so."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
