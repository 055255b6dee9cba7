"""Images as rows: what is read, what is held out, what is refused, and batches that are a function of the step."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ligo.core.errors import ConfigError, DataError
from ligo.data import image_folder
from ligo.data.config import DataConfig
from ligo.data.images import Images, ImageShape, prepare_images
from ligo.data.loader import Batches, validation_batches

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
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


# Folders of pictures


def paint(file: Path, level: int, size: tuple[int, int] = (4, 4), mode: str = "L") -> None:
    image = pytest.importorskip("PIL.Image")
    file.parent.mkdir(parents=True, exist_ok=True)
    image.new(mode, size, level if mode == "L" else (level, 0, 255)).save(file)


def gallery(folder: Path) -> Path:
    for level in range(20):
        paint(folder / ("cats" if level % 2 else "dogs") / f"{level:02d}.png", level)
    (folder / "README.md").write_text("not a picture")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGO_CACHE", str(tmp_path / "cache"))


def test_sub_folders_are_classes_in_the_order_of_their_names(tmp_path: Path) -> None:
    images = read(gallery(tmp_path / "g"))
    rows = np.concatenate(
        [images.windows(split, np.arange(n), 5) for split, n in (("train", 15), ("validation", 5))]
    )
    assert sorted(rows[:, 0]) == list(range(20))
    assert ((rows[:, -1] == 0) == (rows[:, 0] % 2 == 1)).all()  # cats are odd, and come first


def test_pictures_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = gallery(tmp_path / "g")
    first = read(folder)
    decode = image_folder._decode
    monkeypatch.setattr(image_folder, "_decode", lambda *_: pytest.fail("decoded again"))
    assert read(folder).fingerprint == first.fingerprint
    monkeypatch.setattr(image_folder, "_decode", decode)
    paint(folder / "cats" / "99.png", 99)
    assert read(folder).fingerprint != first.fingerprint


def test_colour_and_grey_follow_the_model_and_sizes_are_made_to_fit(tmp_path: Path) -> None:
    for number in range(4):
        paint(tmp_path / "g" / "a" / f"{number}.jpg", 200, size=(8, 4), mode="RGB")
        paint(tmp_path / "g" / "b" / f"{number}.png", 200, size=(4, 4), mode="L")
    rows = read(tmp_path / "g", COLOUR).windows("train", np.arange(6), 5)
    for row in rows:
        red, green, blue = row[:-1].reshape(3, 16).astype(int)
        wanted = (200, 0, 255) if row[-1] == 0 else (200, 200, 200)
        assert np.abs(red - wanted[0]).max() <= 3  # JPEG is lossy
        assert np.abs(green - wanted[1]).max() <= 3
        assert np.abs(blue - wanted[2]).max() <= 3
    assert read(tmp_path / "g").windows("train", np.arange(6), 5).shape == (6, 17)


def test_another_folder_to_evaluate_on_has_the_same_classes(tmp_path: Path) -> None:
    folder = gallery(tmp_path / "g")
    paint(tmp_path / "v" / "dogs" / "a.png", 6)
    images = read(folder, validation_path=str(tmp_path / "v"))
    assert images.windows("validation", np.array([0]), 5)[0, -1] == 1
    paint(tmp_path / "v" / "birds" / "a.png", 6)
    with pytest.raises(
        DataError, match=r"has a class 'birds', which is not among those to train on \(cats, dogs\)"
    ):
        read(folder, validation_path=str(tmp_path / "v"))


def test_folders_that_are_no_gallery_are_refused(tmp_path: Path) -> None:
    folder = gallery(tmp_path / "g")
    (folder / "cats" / "bad.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"cannot decode .*cats/bad.png(.|\n)*Try: fetch it again"):
        read(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has 0 sub-folders with pictures"):
        read(tmp_path / "empty")
    for number in range(11):
        paint(tmp_path / "many" / f"class{number}" / "a.png", 0)
    with pytest.raises(DataError, match="has 11 sub-folders with pictures(.|\n)*the model knows 10 classes"):
        read(tmp_path / "many")


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data folder beside the repository")
def test_real_pictures(tmp_path: Path) -> None:
    with np.load(SHARED / "cifar10-jpeg" / "valid.npz") as arrays:
        jpeg, offsets, labels, classes = (arrays[key] for key in ("jpeg", "offsets", "labels", "classes"))
    for number in range(200):
        file = tmp_path / "g" / str(classes[labels[number]]) / f"{number:03d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpeg[offsets[number] : offsets[number + 1]].tobytes())
    shape = ImageShape(num_channels=3, size=32, num_classes=10, num_tokens=5)
    images = read(tmp_path / "g", shape)
    image = pytest.importorskip("PIL.Image")
    numbers = range(200)
    first = min(numbers, key=lambda number: (str(classes[labels[number]]), number))
    with image.open(tmp_path / "g" / str(classes[labels[first]]) / f"{first:03d}.jpg") as opened:
        pixels = np.moveaxis(np.asarray(opened.convert("RGB")), 2, 0).ravel()
    every = np.concatenate(
        [images.windows(s, np.arange(n), 5) for s, n in (("train", 150), ("validation", 50))]
    )
    assert (every[:, :-1] == pixels).all(axis=1).sum() == 1
    assert np.bincount(every[:, -1]).sum() == 200


def numbered(augment: tuple[str, ...], count: int = 400, size: int = 8) -> Images:
    """Images of two channels, of pixels that differ from each other and from black."""
    pixels = np.tile(np.arange(1, 2 * size**2 + 1, dtype=np.uint8), (count, 1))
    split = (pixels, np.arange(count) % 10)
    shape = ImageShape(num_channels=2, size=size, num_classes=10, num_tokens=5)
    return Images(split, split, "numbers", "numbers", shape, augment)


def test_images_are_mirrored_by_chance_or_not_at_all() -> None:
    plain, flipped = (Batches(numbered(augment), 5, 400, seed=0)[0] for augment in ((), ("flip",)))
    assert np.array_equal(plain[:, -1], flipped[:, -1])
    before, after = (batch[:, :-1].reshape(400, 2, 8, 8) for batch in (plain, flipped))
    kept = (after == before).all(axis=(1, 2, 3))
    assert ((after == before[..., ::-1]).all(axis=(1, 2, 3)) == ~kept).all()
    assert 160 < kept.sum() < 240  # a fair coin leaves this range once in 15,000 tries


def test_images_are_moved_by_up_to_an_eighth_of_their_side() -> None:
    plain, moved = (Batches(numbered(augment), 5, 400, seed=0)[0] for augment in ((), ("crop",)))
    before, after = (batch[:, :-1].reshape(400, 2, 8, 8) for batch in (plain, moved))
    ways = {}
    for down in (-1, 0, 1):
        for across in (-1, 0, 1):
            expected = np.zeros_like(before)
            rows, columns = (slice(max(0, by), 8 + min(0, by)) for by in (down, across))
            from_rows, from_columns = (slice(max(0, -by), 8 + min(0, -by)) for by in (down, across))
            expected[:, :, rows, columns] = before[:, :, from_rows, from_columns]
            ways[down, across] = (after == expected).all(axis=(1, 2, 3))
    assert (sum(ways.values()) == 1).all()
    assert all(20 < way.sum() < 75 for way in ways.values())


def test_augmented_batches_are_a_pure_function_of_seed_and_step() -> None:
    images = numbered(("flip", "crop"), count=12)
    batches = Batches(images, 5, 4, seed=0)
    assert np.array_equal(Batches(images, 5, 4, seed=0)[7], batches[7])
    epochs = [np.concatenate([batches[3 * epoch + step] for step in range(3)]) for epoch in range(2)]
    first, second = (epoch[np.argsort(epoch[:, -1], kind="stable")] for epoch in epochs)
    assert not np.array_equal(first, second)  # the same images, moved otherwise
    whole = np.concatenate(validation_batches(images, 5, batch_size=4, max_tokens=60))
    assert np.array_equal(whole, images.windows("validation", np.arange(12), 5))


def test_a_real_picture_is_read_and_augmented_by_the_options(tmp_path: Path) -> None:
    images = read(write(tmp_path / "a.npz"), augment=["flip"])
    rows = np.concatenate([Batches(images, 5, 5, seed=0)[step] for step in range(3)])
    # the one pixel that is not black is mirrored to the other end of its line
    first, last = rows[:, 0], rows[:, 3]
    assert ((first == 0) | (last == 0)).all() and (first > 0).any() and (last > 0).any()
