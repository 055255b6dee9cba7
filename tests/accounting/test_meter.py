"""Energy by codecarbon: measured beside the estimate, with its sources, and without a connection to anywhere."""

from __future__ import annotations

import importlib.util
import json
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ligo.accounting.hardware import HardwareConfig, check
from ligo.accounting.meter import check_meter, measured, metered, sources
from ligo.accounting.phases import cost
from ligo.core.errors import ConfigError
from ligo.reports.ledger import phase_rows

METERED = HardwareConfig(meter="codecarbon", country="DEU")
BY_COUNTER = {
    "energy_kwh": 0.5, "co2_kg": 0.2, "seconds": 90.0,
    "parts": {
        "cpu": {"energy_kwh": 0.3, "source": "CPU(Intel Rapl)", "is_measured": True},
        "gpu": {"energy_kwh": 0.0, "source": "GPU()", "is_measured": False},
        "ram": {"energy_kwh": 0.2, "source": "RAM()", "is_measured": False},
    },
}  # fmt: skip


def work(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something tried to open a connection")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_what_runs_in_the_block_is_measured_without_a_connection(tmp_path: Path, no_network: None) -> None:
    pytest.importorskip("codecarbon", reason="the extra ligo[energy] is not installed")
    check_meter(METERED)
    with metered(METERED, tmp_path, "learn"):
        work(0.5)
    once = measured(tmp_path)["operator"]
    assert once["energy_kwh"] > 0 and once["seconds"] >= 0.5
    assert once["energy_kwh"] == pytest.approx(sum(part["energy_kwh"] for part in once["parts"].values()))
    assert 0.1 < once["co2_kg"] / once["energy_kwh"] < 1, "kilograms per kWh in Germany"
    assert once["parts"]["ram"]["is_measured"] is False
    with metered(METERED, tmp_path, "learn"):  # after a cut
        work(0.2)
    twice = measured(tmp_path)["operator"]
    assert twice["energy_kwh"] > once["energy_kwh"] and twice["seconds"] >= once["seconds"] + 0.2
    assert [path.name for path in tmp_path.iterdir()] == ["energy.json"], (
        "codecarbon leaves no file of its own"
    )


def test_what_was_used_until_a_failure_is_kept(tmp_path: Path) -> None:
    pytest.importorskip("codecarbon", reason="the extra ligo[energy] is not installed")
    with pytest.raises(KeyboardInterrupt), metered(METERED, tmp_path, "train"):
        work(0.2)
        raise KeyboardInterrupt
    assert measured(tmp_path)["grown"]["seconds"] >= 0.2


def test_nothing_is_measured_unless_asked(tmp_path: Path) -> None:
    with metered(HardwareConfig(), tmp_path, "train"):
        pass
    with metered(METERED, tmp_path, "verify"):
        pass
    assert measured(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []


def test_measured_and_estimated_stand_side_by_side() -> None:
    spent = {"flops": 1e12, "tokens": 10, "wall_s": 3600.0, "ranks": 1}
    phases = {
        "small": {"flops": None, "tokens": None, "wall_s": None}, "operator": {"flops": 0, "tokens": 0, "wall_s": 0},
        "build": {"flops": 0}, "training": {"grown": spent}, "evaluation": {}, "recomputation_flops": {},
    }  # fmt: skip
    found = cost(phases, 300.0, None, {"grown": BY_COUNTER})
    rows = {row[0]: row for row in phase_rows({"phases": phases, "cost": found})}
    assert rows["grown, training"][5] == "0.3 kWh"
    assert rows["grown, by codecarbon"][3:] == ["90.0 s", "", "0.5 kWh", "0.2 kg"]
    assert found["assumption"].startswith("an estimate, not metered: 300 W per device")
    assert found["assumption"].endswith(
        "60 % measured by counters (CPU(Intel Rapl)), the rest its estimate (RAM())"
    )
    assert sources({}) == "" == sources(cost(phases, 300.0, None)["measured"])


def test_a_country_is_needed_and_must_be_known() -> None:
    with pytest.raises(ConfigError, match="hardware.country is not set: it is not looked up on the network"):
        check(HardwareConfig(meter="codecarbon"))
    with pytest.raises(ConfigError, match="hardware.meter=joulemeter is not one of none, codecarbon"):
        check(HardwareConfig(meter="joulemeter"))
    pytest.importorskip("codecarbon", reason="the extra ligo[energy] is not installed")
    with pytest.raises(
        ConfigError, match=r"hardware.country=DE is no country(.|\n)*Try: hardware.country=DEU"
    ):
        check_meter(HardwareConfig(meter="codecarbon", country="DE"))


def test_a_codecarbon_that_was_told_to_send_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("codecarbon", reason="the extra ligo[energy] is not installed")
    monkeypatch.setenv("CODECARBON_SAVE_TO_API", "true")
    with pytest.raises(ConfigError, match=r"set to send what it measures \(save_to_api\)"):
        check_meter(METERED)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str, real: Any = importlib.util.find_spec) -> Any:
        return None if name == "codecarbon" else real(name)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    monkeypatch.delitem(sys.modules, "codecarbon", raising=False)
    with pytest.raises(ConfigError, match=r"hardware.meter=none does without(.|\n)*ligo\[energy\]"):
        check_meter(METERED)


def test_energy_json_is_plain(tmp_path: Path) -> None:
    (tmp_path / "energy.json").write_text(json.dumps({"train": BY_COUNTER, "small": BY_COUNTER}))
    assert set(measured(tmp_path)) == {"grown", "small"}
