"""Values that must be one of a few, or lie in a range."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ligo.core.errors import ConfigError, nearest

_LARGEST_SHOWN = 1e300  # larger integers are no floating-point numbers


def check_choice(key: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a word that is none of the choices.

    Raises:
        ConfigError: the key, the value, the choices, and the one that is nearest.
    """
    if value not in choices:
        raise ConfigError(
            f"{key}={value} is not one of {', '.join(choices)}.\n  Try: {key}={nearest(value, choices) or choices[0]}"
        )


def check_between(key: str, value: float, low: float, high: float = math.inf, *, above: bool = False) -> None:
    """Refuse a number outside [low, high], or outside (low, high] with `above`; NaN and infinity are outside.

    Raises:
        ConfigError: the key, the value and the range are named.
    """
    inside = -math.inf < value < math.inf and (low < value if above else low <= value) and value <= high
    if not inside:
        words = f"above {low:g}" if above else f"at least {low:g}"
        limit = "" if high == math.inf else f" and at most {high:g}"
        nearest = high if value > high else low
        hint = f"leave {key} out to get its default" if above and nearest == low else f"{key}={nearest:g}"
        digits = isinstance(value, int) and abs(value) > _LARGEST_SHOWN
        shown = "a number of hundreds of digits" if digits else f"{value:g}"
        raise ConfigError(f"{key}={shown} must be {words}{limit}.\n  Try: {hint}")
