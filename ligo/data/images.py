"""Labelled images as rows of numbers: what image models train on, in the shape that `loader` asks a corpus for.

An image is its pixels, 0 to 255, channel after channel, each row by row; its class follows them. There are two
sources that are read whole into memory, .npz, and .csv with one image per line; and folders of pictures.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ligo.core.errors import ConfigError, DataError
from ligo.data.config import DataConfig
from ligo.data.image_folder import PICTURES, class_names, read_folder
from ligo.data.sources import cache_folder, local_path
from ligo.data.split import SPLIT_SEED

SUFFIXES = (".npz", ".csv", ".csv.gz")


@dataclass(frozen=True)
class ImageShape:
    """What a model's config.json says of its images."""

    num_channels: int
    size: int
    """Pixels along either side."""
    num_classes: int
    num_tokens: int
    """Tokens that an image becomes: its patches, and those in front of them."""

    @property
    def num_pixels(self) -> int:
        return self.num_channels * self.size**2


@dataclass(frozen=True)
class Images:
    """Two sets of labelled images; each is uint8 pixels [images, pixels] and int64 classes [images]."""

    train: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]
    fingerprint: str
    """Of pixels and classes, in their order."""
    name: str
    shape: ImageShape
    augment: Sequence[str] = ()
    """As data.augment."""

    def check_length(self, sequence_length: int) -> None:
        """Check that a sequence is an image.

        Raises:
            ConfigError: it is not.
        """
        if sequence_length != self.shape.num_tokens:
            raise ConfigError(
                f"data.sequence_length={sequence_length}, but for this model an image is {self.shape.num_tokens} "
                f"tokens: its patches, and those in front of them.\n  Try: data.sequence_length={self.shape.num_tokens}"
            )

    def num_windows(self, split: str, _length: int) -> int:
        """Images in a split."""
        return len(getattr(self, split)[1])

    def windows(self, split: str, numbers: np.ndarray, _length: int) -> np.ndarray:
        """Images by number: int64 [len(numbers), pixels + 1]."""
        pixels, classes = getattr(self, split)
        return np.column_stack([pixels[numbers], classes[numbers]])

    def augmented(self, rows: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """Images as they are trained on: mirrored by chance, and moved (He et al. 2016, arXiv 1512.03385, section 4.2).

        Args:
            rows: int64 [n, pixels + 1].
            draws: uint64 [n]: the chance of each.

        Returns:
            int64 [n, pixels + 1].
        """
        if not self.augment:
            return rows
        size, channels = self.shape.size, self.shape.num_channels
        shift = size // 8 if "crop" in self.augment else 0
        top, left, mirrored = (
            ((draws >> np.uint64(bits)) % np.uint64(count)).astype(np.int64)
            for bits, count in (
                (0, 2 * shift + 1),
                (20, 2 * shift + 1),
                (40, 2 if "flip" in self.augment else 1),
            )
        )
        images = rows[:, :-1].reshape(-1, channels, size, size)
        padded = np.pad(images, ((0, 0), (0, 0), (shift, shift), (shift, shift)))
        along = np.arange(size)
        down = top[:, None] + along
        across = left[:, None] + np.where(mirrored[:, None], along[::-1], along)
        image, channel = np.ogrid[: len(images), :channels]
        moved = padded[
            image[:, :, None, None],
            channel[:, :, None, None],
            down[:, None, :, None],
            across[:, None, None, :],
        ]
        return np.column_stack([moved.reshape(len(rows), -1), rows[:, -1]])


def prepare_images(config: DataConfig, shape: ImageShape) -> Images:
    """Read the images of `data.path`, and hold some out where there is no `data.validation_path`.

    Raises:
        ConfigError: no data.path, a fraction that leaves nothing, or a sequence length that is not an image's.
        DataError: what is there cannot be read, or does not fit the model.
    """
    train = _read(config.path, config, shape)
    if config.validation_path is not None:
        validation = _read(config.validation_path, config, shape)
    else:
        count = len(train[1])
        held_out = round(config.validation_fraction * count)
        if not 0 < held_out < count:
            raise ConfigError(
                f"data.validation_fraction={config.validation_fraction} of {count} images leaves nothing to train on "
                "or nothing to evaluate on.\n  Try: data.validation_fraction=0.2"
            )
        order = np.argsort(np.random.default_rng(SPLIT_SEED).random(count))
        validation, train = (
            (train[0][rows], train[1][rows]) for rows in (order[:held_out], np.sort(order[held_out:]))
        )
    digest = hashlib.sha256()
    for part in (*train, *validation):
        digest.update(np.ascontiguousarray(part).tobytes())
    images = Images(train, validation, digest.hexdigest()[:24], config.name, shape, tuple(config.augment))
    images.check_length(config.sequence_length)
    return images


def _read(path: str | None, config: DataConfig, shape: ImageShape) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 [images, pixels] and classes int64 [images] of one file."""
    file = local_path(path, config)
    if file.is_dir():
        return _read_pictures(file, config, shape)
    if not file.name.endswith(SUFFIXES):
        raise DataError(
            f"cannot read images from {path}: its name ends in none of {', '.join(SUFFIXES)}.\n"
            "  Try: np.savez(FILE, images=uint8 [n, height, width] or [n, height, width, channels], labels=int [n])"
        )
    try:
        pixels, classes = _read_npz(file) if file.suffix == ".npz" else _read_csv(file)
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(
            f"cannot read images from {path}: {str(error).splitlines()[0]}.\n"
            "  Try: .npz with uint8 'images' and int 'labels', or .csv with pixels and class in each line"
        ) from error
    if pixels.shape[1] != shape.num_pixels:
        raise DataError(
            f"the images of {path} have {pixels.shape[1]} pixel values, but the model takes {shape.num_channels} x "
            f"{shape.size} x {shape.size}.\n  Try: other images, or another model"
        )
    if len(classes) and not 0 <= classes.min() <= classes.max() < shape.num_classes:
        raise DataError(
            f"{path} has classes from {classes.min()} to {classes.max()}, but the model knows 0 to "
            f"{shape.num_classes - 1}.\n  Try: other images, or a model with more classes"
        )
    return pixels, classes


def _read_pictures(folder: Path, config: DataConfig, shape: ImageShape) -> tuple[np.ndarray, np.ndarray]:
    """A folder of pictures; the classes are those of `data.path`, also for another folder to evaluate on."""
    classes = class_names(local_path(config.path, config))
    if not 1 <= len(classes) <= shape.num_classes:
        raise DataError(
            f"{folder} has {len(classes)} sub-folders with pictures ({', '.join(PICTURES)}), one for each class, and "
            f"the model knows {shape.num_classes} classes.\n  Try: another folder, or another model"
        )
    cache = cache_folder(config) / "images"
    return read_folder(folder, classes, shape.num_channels, shape.size, cache)


def _read_npz(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """`images` [n, height, width] or [n, height, width, channels], and `labels` [n]."""
    with np.load(file, allow_pickle=False) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or labels.shape != images.shape[:1]:
        raise ValueError(f"images are {images.dtype} {images.shape}, labels {labels.shape}")
    channels_first = images if images.ndim == 3 else np.moveaxis(images, 3, 1)
    return channels_first.reshape(len(images), -1), labels.astype(np.int64)


def _read_csv(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Grey pixels and the class in each line; the brightest pixel of the file becomes 255."""
    rows = np.loadtxt(file, delimiter=",", ndmin=2)
    pixels = np.rint(rows[:, :-1] * (255 / rows[:, :-1].max()))
    return pixels.astype(np.uint8), rows[:, -1].astype(np.int64)
