"""Faults on purpose: a short sample of every campaign here, all of them with `-m faults`."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.common import run_campaigns
from benchmarks.faults import COUNTS

SAMPLE = {"kills": 2, "saves": 3, "disks": 2, "launchers": 3, "flips": 30, "ranks": 1, "bad": 1, "parity": 1}


@pytest.fixture(scope="module")
def sampled() -> dict[str, Any]:
    return run_campaigns("tests.faults.campaigns", SAMPLE)


@pytest.mark.parametrize("campaign", SAMPLE)
def test_a_sample_of_every_fault_is_survived(campaign: str, sampled: dict[str, Any]) -> None:
    found = sampled[campaign]
    assert found["good"] == found["trials"] >= SAMPLE[campaign], found["wrong"]


@pytest.mark.faults
@pytest.mark.parametrize("campaign", SAMPLE)
def test_every_fault_of_the_campaign_is_survived(campaign: str) -> None:
    found = run_campaigns("tests.faults.campaigns", {campaign: COUNTS[campaign]})[campaign]
    assert found["good"] == found["trials"] >= COUNTS[campaign], found["wrong"]
