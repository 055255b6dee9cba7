"""The savings at several target losses, and what each phase took, as rows of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ligo.core import units
from ligo.reports.collect import ARM_LABELS

TARGET_COLUMNS = ("loss of", "loss", "convention", "saved FLOPs", "tokens", "wall time")
PHASE_COLUMNS = ("phase", "compute", "tokens", "wall time", "device hours", "energy", "CO2")
_ABSENT = "not measured"


def target_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """Savings by target loss, in the order of TARGET_COLUMNS; a loss that was not reached has no number."""
    rows = []
    for row in summary.get("savings_by_target") or ():
        arm = ARM_LABELS.get(row["of"], row["of"])
        whole = row["share"] == 1
        name = f"{arm}, at its end" if whole else f"{arm}, after {100 * row['share']:.0f} % of its FLOPs"
        absent = _ABSENT if row["reached"] else "not reached"
        if row.get("met_at_start") and "sunk" in row["convention"]:
            absent = "met at the start"
        savings = (units.percent(row[key]["saving"], absent) for key in ("flops", "tokens", "wall_s"))
        rows.append([name, f"{row['loss']:.4f}", row["convention"], *savings])
    return rows


def phase_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """What each phase took, in the order of PHASE_COLUMNS; evaluation and recomputation stand apart, at the end."""
    phases = summary.get("phases")
    if not phases:
        return []
    footprints = (summary.get("cost") or {}).get("phases") or {}
    rows = [
        _row("small model, training", phases["small"], footprints.get("small")),
        _row("operator, all candidates", phases["operator"], footprints.get("operator")),
        _row("building the weights", phases["build"]),
    ]
    rows += [
        _row(f"{ARM_LABELS.get(arm, arm)}, training", spent, footprints.get(arm))
        for arm, spent in phases["training"].items()
    ]
    rows += [
        _row(f"{ARM_LABELS.get(arm, arm)}, {found['times']} evaluations (not charged)", found)
        for arm, found in phases["evaluation"].items()
    ]
    rows += [
        _measured_row(phase, found)
        for phase, found in ((summary.get("cost") or {}).get("measured") or {}).items()
    ]
    again = phases["recomputation_flops"].items()
    rows += [
        _row(f"{ARM_LABELS.get(name, name)}, recomputation (not charged)", {"flops": flops})
        for name, flops in again
        if flops != 0
    ]
    return rows


def _measured_row(phase: str, found: Mapping[str, Any]) -> list[str]:
    """Energy as a meter found it, in a row of its own beside the estimate."""
    name = {"small": "small model", "operator": "operator"}.get(phase, ARM_LABELS.get(phase, phase))
    kwh, co2 = f"{found['energy_kwh']:.3g} kWh", f"{found['co2_kg']:.3g} kg"
    return [f"{name}, by codecarbon", "", "", units.seconds(found["seconds"]), "", kwh, co2]


def _row(name: str, spent: Mapping[str, Any], footprint: Mapping[str, Any] | None = None) -> list[str]:
    def cell(value: Any, write: Any) -> str:
        return _ABSENT if value is None else str(write(value))

    footprint = footprint or {}
    return [
        name,
        cell(spent.get("flops"), units.flops),
        cell(spent["tokens"], units.si) if "tokens" in spent else "",
        cell(spent["wall_s"], units.seconds) if "wall_s" in spent else "",
        cell(footprint["device_hours"], "{:.3g} h".format) if footprint else "",
        cell(footprint["energy_kwh"], "{:.3g} kWh".format) if footprint else "",
        cell(footprint["co2_kg"], "{:.3g} kg".format) if footprint else "",
    ]
