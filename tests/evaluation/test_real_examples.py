"""Real sentences and images, where they lie beside the checkout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ligo.evaluation.finetuning.glue import TASKS, read_examples
from ligo.evaluation.finetuning.pictures import find_split, read_pictures
from tests.conftest import SHARED_DATA


def folder(name: str) -> Path:
    if not (SHARED_DATA / name).is_dir():
        pytest.skip(f"{name} is not beside this checkout (../shared/data)")
    return SHARED_DATA / name


def test_sst2_is_read_as_it_is_given_out() -> None:
    path = str(folder("sst2"))
    counts = {
        split: len(read_examples(path, split, TASKS["sst2"], "sst2"))
        for split in ("train", "validation", "test")
    }
    assert counts == {"train": 6920, "validation": 872, "test": 1821}
    dev = read_examples(path, "validation", TASKS["sst2"], "sst2")
    assert dev[0].texts == ("one long string of cliches",) and dev[0].label == 0


def test_jpeg_images_keep_their_size_and_become_grey(tmp_path: Path) -> None:
    place = find_split(str(folder("cifar10-jpeg")), "validation")
    options = {"classes": None, "cache": tmp_path}
    coloured = read_pictures(place, channels=3, size=32, resize=False, **options)
    assert coloured.pixels.shape == (2000, 3 * 32 * 32) and "airplane" in coloured.classes
    assert np.bincount(coloured.labels).tolist() == [200] * 10
    grey = read_pictures(place, channels=1, size=8, resize=True, **options)
    difference = coloured.pixels.mean(axis=1) - grey.pixels.mean(axis=1)
    assert np.abs(difference).mean() < 8  # grey weighs the colours
