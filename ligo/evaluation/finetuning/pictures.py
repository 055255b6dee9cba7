"""Labelled images of any size, as an image model takes them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from ligo.core.errors import DataError, require
from ligo.core.log import progress
from ligo.data.image_folder import PICTURES, class_names, read_folder

SPLITS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}


@dataclass(frozen=True)
class Pictures:
    """Images of one split, and their classes."""

    pixels: np.ndarray
    """uint8 [images, channels * size * size]"""
    labels: np.ndarray
    """int64 [images]"""
    classes: tuple[str, ...]
    """Names, by number."""


def find_split(path: str, split: str) -> Path:
    """A file as it is; of a folder, NAME.npz or the sub-folder NAME with a sub-folder for each class.

    Raises:
        DataError: there is none.
    """
    place = Path(path).expanduser()
    if place.is_file() or (place.is_dir() and class_names(place) and not _splits_in(place)):
        return place
    for word in SPLITS[split]:
        for found in (place / f"{word}.npz", place / word):
            if found.exists():
                return found
    there = (
        ", ".join(sorted(file.name for file in place.iterdir())[:6]) if place.is_dir() else "no such folder"
    )
    raise DataError(
        f"{path} has no split {split} ({', '.join(SPLITS[split])}): there is {there or 'nothing'}.\n"
        f"  Try: evaluation.{'path' if split == 'train' else 'validation_path'}=FILE.npz, or a folder of classes"
    )


def _splits_in(folder: Path) -> bool:
    """Whether the sub-folders are splits, and not classes."""
    return any((folder / word).is_dir() for words in SPLITS.values() for word in words)


def read_pictures(
    place: Path, *, channels: int, size: int, resize: bool, classes: tuple[str, ...] | None, cache: Path
) -> Pictures:
    """Read images, and make them `channels` x `size` x `size`.

    Args:
        place: .npz with uint8 `images` [n, height, width] or [n, height, width, channels], or with PNG or JPEG files one
            after another in the uint8 array `jpeg` and their `offsets` [n + 1]; with `labels` [n] and perhaps names
            `classes`. Or a folder with a sub-folder of PNG and JPEG for each class.
        resize: whether arrays of another size or number of channels are made to fit, as those of folders always are.
        classes: those to train on; None: those that are found here.
        cache: where decoded folders are kept.

    Raises:
        DataError: they cannot be read, there is none, they are of another size, or have labels beyond the classes.
        ConfigError: pillow is not installed.
    """
    if place.is_dir():
        names = classes or tuple(class_names(place))
        if not names:
            raise DataError(
                f"{place} has no sub-folder with pictures ({', '.join(PICTURES)}).\n  Try: one for each class"
            )
        pixels, labels = read_folder(place, names, channels, size, cache)
        return Pictures(pixels, labels, names)
    try:
        with np.load(place, allow_pickle=False) as arrays:
            labels = arrays["labels"].astype(np.int64)
            if not len(labels):
                raise DataError(f"{place} holds no image.\n  Try: another file")
            named = tuple(map(str, arrays["classes"])) if "classes" in arrays else None
            pixels = _pixels(place, arrays, channels, size, resize)
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(
            f"cannot read images from {place}: {str(error).splitlines()[0]}.\n"
            "  Try: np.savez(FILE, images=uint8 [n, height, width] or [n, height, width, channels], labels=int [n])"
        ) from error
    if len(labels) != len(pixels):
        raise DataError(
            f"{place} has {len(pixels)} images and {len(labels)} labels.\n  Try: one label for each image"
        )
    known = classes or named or tuple(str(number) for number in range(int(labels.max()) + 1))
    if labels.min() < 0 or labels.max() >= len(known):
        wrong = int(np.flatnonzero((labels < 0) | (labels >= len(known)))[0])
        raise DataError(
            f"{place}, image {wrong + 1}: the label {labels[wrong]} is none of the {len(known)} classes, 0 to "
            f"{len(known) - 1}.\n  Try: remove it, or images to train on that have all classes"
        )
    return Pictures(pixels, labels, known)


def _pixels(place: Path, arrays: np.lib.npyio.NpzFile, channels: int, size: int, resize: bool) -> np.ndarray:
    """uint8 [images, channels * size * size]."""
    if "jpeg" in arrays:
        return _fitted(
            _decoded(place, arrays["jpeg"], arrays["offsets"]),
            len(arrays["offsets"]) - 1,
            place,
            channels,
            size,
            resize,
        )
    images = arrays["images"]
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise ValueError(f"images are {images.dtype} {images.shape}")
    images = images[..., None] if images.ndim == 3 else images
    if images.shape[1:] == (size, size, channels):
        return np.ascontiguousarray(np.moveaxis(images, 3, 1)).reshape(len(images), -1)
    return _fitted(iter(images), len(images), place, channels, size, resize)


def _decoded(place: Path, content: np.ndarray, offsets: np.ndarray) -> Iterator[np.ndarray]:
    """uint8 [height, width, channels] of each picture."""
    image = require("PIL.Image", extra="images", why="reading PNG and JPEG")
    for number, (start, end) in enumerate(pairwise(offsets), start=1):
        try:
            with image.open(io.BytesIO(content[start:end].tobytes())) as opened:
                mode = "L" if opened.mode in ("1", "L") else "RGB"
                yield np.atleast_3d(np.asarray(opened.convert(mode)))
        except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises
            raise DataError(
                f"cannot decode image {number} of {place}: {error}.\n  Try: fetch it again"
            ) from error


def _fitted(
    images: Iterator[np.ndarray], count: int, place: Path, channels: int, size: int, resize: bool
) -> np.ndarray:
    """Images [height, width, channels] cut to squares, scaled, and made grey or coloured, if they are not as they should be."""
    pixels = np.empty((count, channels, size, size), dtype=np.uint8)
    with progress(f"read {place.name}", count) as bar:
        for number, (row, image) in enumerate(zip(pixels, images, strict=True), start=1):
            if image.shape != (size, size, channels):
                if not resize:
                    height, width, found = image.shape
                    raise DataError(
                        f"{place}, image {number}: {height} x {width} pixels in {found} channel(s), and the model takes "
                        f"{size} x {size} in {channels}.\n  Try: evaluation.resize=true, or another model"
                    )
                image = _resized(image, channels, size)
            row[...] = np.moveaxis(image, 2, 0)
            bar.advance()
    return pixels.reshape(count, -1)


def _resized(image: np.ndarray, channels: int, size: int) -> np.ndarray:
    pillow, ops = (
        require(f"PIL.{module}", extra="images", why="evaluation.resize=true")
        for module in ("Image", "ImageOps")
    )
    whole = pillow.fromarray(image[..., 0] if image.shape[2] == 1 else image[..., :3])
    return np.atleast_3d(np.asarray(ops.fit(whole.convert("L" if channels == 1 else "RGB"), (size, size))))
