"""A folder of pictures, a sub-folder for each class, as labelled images: decoded once, then read from the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ligo.core.errors import DataError, require
from ligo.core.files import folder_aside
from ligo.core.log import progress

PICTURES = (".png", ".jpg", ".jpeg")


def class_names(folder: Path) -> list[str]:
    """The sub-folders that hold pictures, sorted: a class is its place among them."""
    return sorted({picture.relative_to(folder).parts[0] for picture in _pictures(folder)})


def read_folder(
    folder: Path, classes: Sequence[str], channels: int, size: int, cache: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Decode every picture to `size` x `size` pixels, cut to a square at its centre where it is none.

    Args:
        classes: names of sub-folders; others are refused.
        cache: where decoded images are kept.

    Returns:
        uint8 pixels [images, channels * size * size] and int64 classes [images], in order of class and name.

    Raises:
        DataError: a picture cannot be decoded, or lies in a sub-folder that is no class.
        ConfigError: the package pillow is not installed.
    """
    pictures = _pictures(folder)
    for picture in pictures:
        name = picture.relative_to(folder).parts[0]
        if name not in classes:
            raise DataError(
                f"{folder} has a class '{name}', which is not among those to train on ({', '.join(classes)}).\n"
                f"  Try: rename or remove {folder / name}"
            )
    decoded = cache / _fingerprint(folder, pictures, [*classes, str(channels), str(size)])
    if not decoded.exists():
        pixels = _decode(pictures, channels, size)
        labels = [classes.index(picture.relative_to(folder).parts[0]) for picture in pictures]
        with folder_aside(decoded) as aside:
            np.save(aside / "pixels.npy", pixels)
            np.save(aside / "classes.npy", np.array(labels, dtype=np.int64))
    return np.load(decoded / "pixels.npy", mmap_mode="r"), np.load(decoded / "classes.npy")


def _pictures(folder: Path) -> list[Path]:
    files = (file for file in folder.glob("*/**/*") if file.suffix.lower() in PICTURES)
    return sorted(
        file for file in files if not any(p.startswith(".") for p in file.relative_to(folder).parts)
    )


def _fingerprint(folder: Path, pictures: Sequence[Path], options: Sequence[str]) -> str:
    """Of names, sizes and times of writing: the pictures are not read for it."""
    digest = hashlib.sha256("\n".join(options).encode())
    for picture in pictures:
        status = picture.stat()
        digest.update(f"\n{picture.relative_to(folder)} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()[:24]


def _decode(pictures: Sequence[Path], channels: int, size: int) -> np.ndarray:
    image, ops = (
        require(f"PIL.{module}", extra="images", why="reading PNG and JPEG")
        for module in ("Image", "ImageOps")
    )
    pixels = np.empty((len(pictures), channels, size, size), dtype=np.uint8)
    with progress("decode images", len(pictures)) as bar:
        for row, picture in zip(pixels, pictures, strict=True):
            try:
                with image.open(picture) as opened:
                    upright = ops.exif_transpose(opened).convert("L" if channels == 1 else "RGB")
                    row[...] = np.moveaxis(np.atleast_3d(np.asarray(ops.fit(upright, (size, size)))), 2, 0)
            except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises
                raise DataError(
                    f"cannot decode {picture}: {error}.\n  Try: fetch it again, or remove it"
                ) from error
            bar.advance()
    return pixels.reshape(len(pictures), -1)
