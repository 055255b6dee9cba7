"""Numbers of a summary as words: what is missing or not finite is called not measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

NOT_MEASURED = "not measured"
NOT_REACHED = "not reached"
MET_AT_START = "met at the start"


def finite(value: Any) -> float | None:
    """The value where it is a finite number."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if number else None


def or_absent(value: float | None, write: Callable[[float], str], absent: str = NOT_MEASURED) -> str:
    """The value as `write` has it; None -> `absent`."""
    return absent if value is None else write(value)


def loss_text(value: Any) -> str:
    """A loss with four digits."""
    return or_absent(finite(value), "{:.4f}".format)
