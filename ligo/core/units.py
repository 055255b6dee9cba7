"""Numbers with units, written the same way everywhere."""

from __future__ import annotations

_SI = ((1e24, "Y"), (1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def si(value: float, unit: str = "", digits: int = 3) -> str:
    """1234567 -> '1.23 M' + unit, with SI prefixes (powers of 1000)."""
    rounded = abs(float(f"{value:.{digits}g}"))  # 999.7e12 reads 1 P, not 1e+03 T
    for factor, prefix in _SI:
        if rounded >= factor:
            return f"{value / factor:.{digits}g} {prefix}{unit}"
    return f"{value:.{digits}g} {unit}".rstrip()


def flops(value: float) -> str:
    """Floating-point operations: '9.61 GFLOP'."""
    return si(value, "FLOP")


def num_bytes(value: float) -> str:
    """Bytes with binary prefixes: '12.5 GiB'."""
    for factor, prefix in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if abs(value) >= factor:
            return f"{value / factor:.1f} {prefix}"
    return f"{value:.0f} B"


def seconds(value: float) -> str:
    """Wall time: '42.0 s', '3 min 20 s', '5 h 12 min'."""
    if value < 120:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 120:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def percent(value: float | None, absent: str = "not reached") -> str:
    """0.447 -> '44.7 %'; None -> `absent`."""
    return absent if value is None else f"{100 * value:.1f} %"
