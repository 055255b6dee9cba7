"""Checkpoints from strangers, and damaged ones of our own: a sample of every campaign here, all of them with `-m trust`."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from benchmarks.common import REPO, run_campaigns
from benchmarks.trust import COUNTS

SAMPLE = {"traversal": COUNTS["traversal"], "pickles": 48, "mutations": 300, "hostile": 16}


@pytest.fixture(scope="module")
def sampled() -> dict[str, Any]:
    return run_campaigns("tests.trust.campaigns", SAMPLE)


@pytest.mark.parametrize("campaign", SAMPLE)
def test_a_sample_of_every_campaign_comes_to_nothing_bad(campaign: str, sampled: dict[str, Any]) -> None:
    found = sampled[campaign]
    assert found["good"] == found["trials"] >= SAMPLE[campaign], found["wrong"]


@pytest.mark.trust
@pytest.mark.parametrize("campaign", COUNTS)
def test_nothing_bad_comes_of_a_whole_campaign(campaign: str) -> None:
    found = run_campaigns("tests.trust.campaigns", {campaign: COUNTS[campaign]})[campaign]
    assert found["good"] == found["trials"] >= COUNTS[campaign], found["wrong"]


def test_the_watch_sees_what_a_stock_loader_opens_elsewhere() -> None:
    """Else nothing would follow from its silence: transformers follows an index out of the folder."""
    code = """
import sys, tempfile
from pathlib import Path
from transformers import LlamaForCausalLM
from tests.trust.traversal import FORMS, led_out
from tests.trust.watch import Opens
with tempfile.TemporaryDirectory() as root, led_out(Path(root), FORMS[".."]) as (folder, outside):
    with Opens.below(outside) as opened:
        try:
            LlamaForCausalLM.from_pretrained(folder)
        except Exception as error:
            print(error)
    assert "x.safetensors" in " ".join(opened), opened
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
