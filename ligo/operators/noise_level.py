"""How large the noise is that changes no output at first and lets copies part."""

from __future__ import annotations

from dataclasses import dataclass

NOISE_UNITS = ("own", "fresh")


@dataclass(frozen=True)
class NoiseLevel:
    """A multiple of a unit; false where it is nothing."""

    times: float = 1.0
    unit: str = "own"
    """own: what answers as large as the small model's tensor does; fresh: the target's fresh-init deviation."""

    def __bool__(self) -> bool:
        return self.times > 0


NO_NOISE = NoiseLevel(0.0)
