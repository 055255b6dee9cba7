"""What may go wrong around a run: a short sample here, all of it with `-m faults`."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from benchmarks.trust_faults import COUNTS, NAMESPACES
from tests.conftest import REPO

SAMPLE = {"secrets": 12, "fills": 1, "starts": 1, "offline": 1, "endings": 3}


@pytest.fixture(scope="module")
def namespaces() -> None:
    """Small disks are mounted and the network is taken away for these processes alone."""
    done = subprocess.run(
        [*NAMESPACES, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"namespaces of its own are not allowed here: {done.stderr.strip()}")


def run_campaigns(counts: dict[str, int]) -> dict[str, Any]:
    """In a process of their own, which has one thread and can be forked."""
    words = [f"{name}={count}" for name, count in counts.items()]
    command = [*NAMESPACES, sys.executable, "-m", "tests.faults.trust", *words]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def sampled(namespaces: None) -> dict[str, Any]:
    return run_campaigns(SAMPLE)


@pytest.mark.parametrize("campaign", SAMPLE)
def test_a_sample_of_every_trouble_ends_well(campaign: str, sampled: dict[str, Any]) -> None:
    found = sampled[campaign]
    assert found["good"] == found["trials"] > 0, found["wrong"]


@pytest.mark.faults
@pytest.mark.parametrize("campaign", COUNTS)
def test_every_trouble_of_the_campaign_ends_well(campaign: str, namespaces: None) -> None:
    found = run_campaigns({campaign: COUNTS[campaign]})[campaign]
    assert found["good"] == found["trials"] > 0, found["wrong"]
