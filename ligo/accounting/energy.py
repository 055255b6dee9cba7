"""Device hours, and energy and emissions as estimates: time times an assumed power, which nothing has metered."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Footprint:
    """Of one phase or of several; None where a part of it is unknown."""

    device_hours: float | None
    energy_kwh: float | None
    co2_kg: float | None


def footprint(
    wall_s: float | None, devices: int | None, watts: float | None, grams_co2_per_kwh: float | None
) -> Footprint:
    """What a time on so many devices comes to.

    Args:
        watts: of one device at work, with its share of host and cooling.
        grams_co2_per_kwh: of the electricity used.
    """
    hours = None if wall_s is None or devices is None else wall_s * devices / 3600
    energy = None if hours is None or watts is None else hours * watts / 1000
    emitted = None if energy is None or grams_co2_per_kwh is None else energy * grams_co2_per_kwh / 1000
    return Footprint(hours, energy, emitted)


def assumption(watts: float | None, grams_co2_per_kwh: float | None) -> str:
    """What an estimate rests on, in words."""
    if watts is None:
        return "energy is not estimated: hardware.watts says what one device draws"
    emissions = (
        "emissions are not estimated: hardware.grams_co2_per_kwh says what a kWh emits"
        if grams_co2_per_kwh is None
        else f"{grams_co2_per_kwh:g} g of CO2 per kWh"
    )
    return f"an estimate, not metered: {watts:g} W per device at work; {emissions}"
