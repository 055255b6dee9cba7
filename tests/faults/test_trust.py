"""What may go wrong around a run: a short sample here, all of it with `-m faults`."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from benchmarks.common import run_campaigns
from benchmarks.trust_faults import COUNTS, NAMESPACES

SAMPLE = {"secrets": 12, "fills": 1, "starts": 1, "offline": 1, "endings": 3}


@pytest.fixture(scope="module")
def namespaces() -> None:
    """Small disks are mounted and the network is taken away for these processes alone."""
    done = subprocess.run(
        [*NAMESPACES, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"namespaces of its own are not allowed here: {done.stderr.strip()}")


@pytest.fixture(scope="module")
def sampled(namespaces: None) -> dict[str, Any]:
    return run_campaigns("tests.faults.trust", SAMPLE, NAMESPACES)


@pytest.mark.parametrize("campaign", SAMPLE)
def test_a_sample_of_every_trouble_ends_well(campaign: str, sampled: dict[str, Any]) -> None:
    found = sampled[campaign]
    assert found["good"] == found["trials"] > 0, found["wrong"]


@pytest.mark.faults
@pytest.mark.parametrize("campaign", COUNTS)
def test_every_trouble_of_the_campaign_ends_well(campaign: str, namespaces: None) -> None:
    found = run_campaigns("tests.faults.trust", {campaign: COUNTS[campaign]}, NAMESPACES)[campaign]
    assert found["good"] == found["trials"] > 0, found["wrong"]
