"""What the machine can do: the `hardware` group, and what a step takes on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ligo.core.checks import check_between


@dataclass(kw_only=True)
class HardwareConfig:
    """`hardware=...`: the machine that a run is planned for; rates are of one device."""

    name: str = "cpu"
    """Shown in plans."""
    count: int | None = None
    """Devices, one rank on each. null: as many as there are ranks now."""
    memory_gib: float | None = None
    """Memory of one device. null: what is free here, or the memory of the GPU that is here."""
    bf16_tflops: float | None = None
    """Peak rate of matrix products in bf16, without sparsity. null: measured here, in five seconds."""
    fp32_tflops: float | None = None
    """The same in float32 as torch runs it by default. null: measured here."""
    bandwidth_gb_s: float | None = None
    """Memory bandwidth. null: measured here."""
    efficiency: float = 0.45
    """Part of the peak rates that a step reaches; an assumption, and not used where rates are measured."""
    price_per_hour: float | None = None
    """What one device costs per hour, in any currency."""

    @property
    def is_measured(self) -> bool:
        """Whether rates are measured on this machine instead of read from a data sheet."""
        return None in (self.bf16_tflops, self.fp32_tflops, self.bandwidth_gb_s)


def check(config: HardwareConfig) -> None:
    """Refuse values outside their range.

    Raises:
        ConfigError: the key, the value and the range are named.
    """
    for key in ("count", "memory_gib", "bf16_tflops", "fp32_tflops", "bandwidth_gb_s", "price_per_hour"):
        value = getattr(config, key)
        if value is not None:
            check_between(f"hardware.{key}", value, 0, above=key != "price_per_hour")
    check_between("hardware.efficiency", config.efficiency, 0, 1, above=True)


@dataclass(frozen=True)
class Work:
    """What something does, in the quantities that take time; of one rank."""

    product_flops: Mapping[str, float]
    """FLOPs of matrix products by dtype: float32, bfloat16."""
    attention_flops: float = 0.0
    """FLOPs of fused attention."""
    moved_bytes: float = 0.0
    """What all other ops read and write."""
    num_ops: float = 0.0

    def __add__(self, other: Work) -> Work:
        dtypes = {*self.product_flops, *other.product_flops}
        return Work(
            {d: self.product_flops.get(d, 0.0) + other.product_flops.get(d, 0.0) for d in sorted(dtypes)},
            self.attention_flops + other.attention_flops,
            self.moved_bytes + other.moved_bytes,
            self.num_ops + other.num_ops,
        )

    def times(self, factor: float) -> Work:
        return Work(
            {dtype: factor * flops for dtype, flops in self.product_flops.items()},
            factor * self.attention_flops,
            factor * self.moved_bytes,
            factor * self.num_ops,
        )

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
    op_s: float = 0.0
    """Seconds that starting an op takes."""

    def seconds(self, work: Work) -> float:
        """Each part at its own rate, one after the other."""
        slowest = min(self.product_flops.values())
        products = sum(
            flops / self.product_flops.get(dtype, slowest) for dtype, flops in work.product_flops.items()
        )
        return (
            products
            + work.attention_flops / self.attention_flops
            + work.moved_bytes / self.moved_bytes
            + work.num_ops * self.op_s
        )


def sheet_rates(config: HardwareConfig) -> Rates:
    """The rates of a data sheet, as far as they are reached (`hardware.efficiency`)."""
    assert config.bf16_tflops and config.fp32_tflops and config.bandwidth_gb_s
    bf16, fp32 = (1e12 * config.efficiency * rate for rate in (config.bf16_tflops, config.fp32_tflops))
    # the bandwidth that is reached is nearer to its peak than matrix products are
    return Rates({"bfloat16": bf16, "float16": bf16, "float32": fp32}, bf16, 0.8e9 * config.bandwidth_gb_s)
