"""Images as rows: what is read, what is held out, what is refused, and batches that are a function of the step."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ligo.core.errors import ConfigError, DataError
from ligo.data.config import DataConfig
from ligo.data.images import Images, ImageShape, prepare_images
from ligo.data.loader import Batches, validation_batches

GREY = ImageShape(num_channels=1, size=4, num_classes=10, num_tokens=5)
COLOUR = ImageShape(num_channels=3, size=4, num_classes=10, num_tokens=5)


def write(path: Path, count: int = 20, **changes: Any) -> Path:
    """An .npz of grey images, the first pixel of each its number, its class the last digit of that."""
    images = np.zeros((count, 4, 4), dtype=np.uint8)
    images[:, 0, 0] = np.arange(count)
    np.savez(path, **{"images": images, "labels": np.arange(count) % 10, **changes})
    return path


def read(path: Path, shape: ImageShape = GREY, **changes: Any) -> Images:
    return prepare_images(
        DataConfig(path=str(path), sequence_length=5, **{"validation_fraction": 0.25} | changes), shape
    )


def test_images_are_split_once_and_for_all(tmp_path: Path) -> None:
    images = read(write(tmp_path / "a.npz"))
    assert (images.num_windows("train", 5), images.num_windows("validation", 5)) == (15, 5)
    numbers = np.concatenate(
        [images.windows(split, np.arange(n), 5)[:, 0] for split, n in (("train", 15), ("validation", 5))]
    )
    assert sorted(numbers) == list(range(20))
    again = read(write(tmp_path / "b.npz"))
    assert again.fingerprint == images.fingerprint
    assert again.fingerprint != read(write(tmp_path / "c.npz", count=21)).fingerprint


def test_rows_are_pixels_and_the_class(tmp_path: Path) -> None:
    row = read(write(tmp_path / "a.npz")).windows("train", np.array([3]), 5)
    assert row.shape == (1, 17)
    assert row.dtype == np.int64
    assert row[0, -1] == row[0, 0] % 10


def test_colour_images_are_turned_to_channels_first(tmp_path: Path) -> None:
    images = np.zeros((20, 4, 4, 3), dtype=np.uint8)
    images[..., 1] = 7
    file = write(tmp_path / "a.npz", images=images)
    row = read(file, COLOUR).windows("train", np.array([0]), 5)[0]
    assert (row[:-1].reshape(3, 4, 4) == np.array([0, 7, 0])[:, None, None]).all()


def test_lines_of_csv_are_scaled_to_bytes(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.csv.gz", "wt") as file:
        for label in range(8):
            file.write(",".join(["0"] * 15 + [str(2 * label + 2)] + [str(label)]) + "\n")
    rows = read(tmp_path / "a.csv.gz").windows("train", np.arange(6), 5)
    assert (rows[:, 15] == np.rint(255 / 16 * (2 * rows[:, 16] + 2))).all()


def test_batches_are_a_pure_function_of_seed_and_step(tmp_path: Path) -> None:
    images = read(write(tmp_path / "a.npz"))
    batches = Batches(images, 5, 4, seed=0)
    later = batches[7]
    assert np.array_equal(Batches(images, 5, 4, seed=0)[7], later)
    one_epoch = np.concatenate([batches[step][:, 0] for step in range(15)]).reshape(4, 15)
    assert all(len(set(epoch)) == 15 for epoch in one_epoch)
    validation = validation_batches(images, 5, batch_size=3, max_tokens=100)
    assert [len(batch) for batch in validation] == [3, 2]


def test_another_file_can_be_evaluated_on(tmp_path: Path) -> None:
    other = write(tmp_path / "b.npz", count=3)
    images = read(write(tmp_path / "a.npz"), validation_path=str(other))
    assert (images.num_windows("train", 5), images.num_windows("validation", 5)) == (20, 3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": np.zeros((20, 5, 5), dtype=np.uint8)}, "25 pixel values, but the model takes 1 x 4 x 4"),
        ({"labels": np.arange(20)}, "classes from 0 to 19, but the model knows 0 to 9"),
        ({"images": np.zeros((20, 4, 4))}, "images are float64"),
        ({"labels": np.arange(3)}, "labels \\(3,\\)"),
    ],
)
def test_images_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        read(write(tmp_path / "a.npz", **changes))


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words")
    (tmp_path / "b.npz").write_bytes(b"nothing")
    (tmp_path / "c.csv").write_text("1,2\n3\n")
    np.savez(tmp_path / "d.npz", pictures=np.zeros(3))
    with pytest.raises(DataError, match="ends in none of .npz, .csv(.|\n)*np.savez"):
        read(tmp_path / "a.txt")
    for name in ("b.npz", "c.csv", "d.npz", "absent.npz"):
        with pytest.raises(DataError, match=f"cannot read images from .*{name}"):
            read(tmp_path / name)


def test_options_that_leave_nothing_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.npz")
    with pytest.raises(ConfigError, match="leaves nothing to train on"):
        read(file, validation_fraction=0.0)
    with pytest.raises(ConfigError, match="an image is 5 tokens(.|\n)*Try: data.sequence_length=5"):
        prepare_images(DataConfig(path=str(file), sequence_length=128, validation_fraction=0.25), GREY)
