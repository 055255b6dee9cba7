"""Energy and emissions as codecarbon finds them while a stage runs, kept in energy.json of the run folder.

codecarbon reads the counters that a machine has, RAPL for processors and NVML for GPUs, and estimates what it has no
counter for, memory always; so each part is kept with its source. It counts the whole machine of rank 0, whatever else
runs there. Nothing is sent: its offline tracker takes the country from the config, and all its outputs are off.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from ligo.accounting.hardware import HardwareConfig
from ligo.core import distributed
from ligo.core.errors import ConfigError, nearest, require
from ligo.core.files import read_json, write_json

FILE = "energy.json"
PHASE_OF_STAGE = {
    "small": "small",
    "learn": "operator",
    "train": "grown",
    "scratch": "scratch",
    "short": "short",
    "continue": "continue",
}
"""Stages that are metered, and what the ledger calls them."""

_CPU_COUNTERS = ("CPU(Intel Rapl)", "CPU(Intel Power Gadget)")
"""How codecarbon describes processors whose energy it reads; otherwise it multiplies load or time with a constant."""
_SILENT: dict[str, Any] = dict.fromkeys(
    ("save_to_file", "save_to_api", "save_to_logger", "save_to_prometheus", "save_to_logfire"), False
)
_SENDING = (
    "save_to_api",
    "save_to_prometheus",
    "save_to_logfire",
    "emissions_endpoint",
    "electricitymaps_api_token",
)
"""codecarbon's settings that open connections; it reads them from the environment and from its own files."""
_SECONDS_BETWEEN = 5


def check_meter(config: HardwareConfig) -> None:
    """Refuse a meter that is not installed, knows no such country, or has been told elsewhere to send what it finds.

    Raises:
        ConfigError: the option, and what to do.
    """
    if config.meter == "none":
        return
    require("codecarbon", extra="energy", why="hardware.meter=codecarbon (hardware.meter=none does without)")
    from codecarbon.core.config import get_hierarchical_config
    from codecarbon.input import DataSource

    countries = sorted(DataSource().get_global_energy_mix_data())
    if config.country not in countries:
        close = nearest(str(config.country), countries) or "DEU"
        raise ConfigError(
            f"hardware.country={config.country} is no country whose electricity codecarbon knows (three letters, ISO 3166).\n"
            f"  Try: hardware.country={close}, where the machine stands"
        )
    told = [
        key
        for key in _SENDING
        if str(get_hierarchical_config().get(key, "")).lower() not in ("", "false", "none")
    ]
    if told:
        raise ConfigError(
            f"codecarbon is set to send what it measures ({', '.join(told)}), and a run of ligo sends nothing.\n"
            f"  Try: take them out of .codecarbon.config and of the environment (CODECARBON_{told[0].upper()})"
        )


def metered(config: HardwareConfig, folder: Path, stage: str) -> AbstractContextManager[None]:
    """Measure what runs in a block, on rank 0, and add it to what earlier starts of the stage took."""
    if config.meter == "none" or stage not in PHASE_OF_STAGE or not distributed.is_main():
        return nullcontext()
    return _metered(str(config.country), folder / FILE, stage)


def measured(folder: Path) -> dict[str, Any]:
    """By phase, what was measured so far: energy_kwh and co2_kg, seconds, and by part energy_kwh, source, is_measured."""
    path = folder / FILE
    return (
        {PHASE_OF_STAGE[stage]: found for stage, found in read_json(path).items()} if path.is_file() else {}
    )


def sources(phases: Mapping[str, Any]) -> str:
    """Where the figures come from, in words: how much counters measured, and by which means the rest was estimated."""
    if not phases:
        return ""
    parts = [part for phase in phases.values() for part in phase["parts"].values() if part["energy_kwh"]]
    total = sum(part["energy_kwh"] for part in parts)
    counted = sum(part["energy_kwh"] for part in parts if part["is_measured"])

    def named(is_measured: bool) -> str:
        return ", ".join(sorted({p["source"] for p in parts if p["is_measured"] is is_measured})) or "none"

    share = 100 * counted / total if total else 0.0
    return (
        f"rows by codecarbon are of the whole machine of rank 0: {share:.0f} % measured by counters ({named(True)}), the rest "
        f"its estimate ({named(False)})"
    )


@contextmanager
def _metered(country: str, path: Path, stage: str) -> Iterator[None]:
    import codecarbon

    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)  # it greets before it reads its log_level
    tracker = codecarbon.OfflineEmissionsTracker(
        country_iso_code=country, measure_power_secs=_SECONDS_BETWEEN, tracking_mode="machine", log_level="critical",
        allow_multiple_runs=True, project_name="ligo", **_SILENT,
    )  # fmt: skip
    tracker.start()
    try:
        yield
    finally:
        tracker.stop()
        found = _found(tracker)
        before = read_json(path) if path.is_file() else {}
        write_json(path, {**before, stage: _sum(before.get(stage), found)})


def _found(tracker: Any) -> dict[str, Any]:
    data, parts = tracker.final_emissions_data, {}
    for hardware in tracker._hardware:
        kind, source = type(hardware).__name__.lower(), hardware.description()
        parts[kind] = {
            "energy_kwh": float(getattr(data, f"{kind}_energy")),
            "source": source,
            "is_measured": kind == "gpu" or source in _CPU_COUNTERS,
        }
    return {
        "energy_kwh": float(data.energy_consumed),
        "co2_kg": float(data.emissions),
        "seconds": float(data.duration),
        "parts": parts,
    }


def _sum(before: dict[str, Any] | None, now: dict[str, Any]) -> dict[str, Any]:
    if before is None:
        return now
    totals = {key: before[key] + now[key] for key in ("energy_kwh", "co2_kg", "seconds")}
    parts = {
        name: {**part, "energy_kwh": before["parts"][name]["energy_kwh"] + part["energy_kwh"]}
        for name, part in now["parts"].items()
    }
    return {**totals, "parts": parts}
