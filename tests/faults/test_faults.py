"""Faults on purpose: a short sample of every campaign here, all of them with `-m faults`."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from benchmarks.faults import COUNTS
from tests.conftest import REPO

SAMPLE = {"kills": 2, "saves": 3, "disks": 2, "launchers": 3, "flips": 30, "ranks": 1, "bad": 1, "parity": 1}


def run_campaigns(counts: dict[str, int]) -> dict[str, Any]:
    """In a process of their own, which has one thread and can be forked."""
    command = [
        sys.executable,
        "-m",
        "tests.faults.campaigns",
        *(f"{n}={count}" for n, count in counts.items()),
    ]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def sampled() -> dict[str, Any]:
    return run_campaigns(SAMPLE)


@pytest.mark.parametrize("campaign", SAMPLE)
def test_a_sample_of_every_fault_is_survived(campaign: str, sampled: dict[str, Any]) -> None:
    found = sampled[campaign]
    assert found["good"] == found["trials"] >= SAMPLE[campaign], found["wrong"]


@pytest.mark.faults
@pytest.mark.parametrize("campaign", SAMPLE)
def test_every_fault_of_the_campaign_is_survived(campaign: str) -> None:
    found = run_campaigns({campaign: COUNTS[campaign]})[campaign]
    assert found["good"] == found["trials"] >= COUNTS[campaign], found["wrong"]
