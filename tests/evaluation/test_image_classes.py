"""Image models on images of any form: read, refused where they do not fit, learned."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageClassification

from ligo.core.errors import CheckpointError, DataError
from ligo.evaluation.finetuning.pictures import find_split, read_pictures
from tests.evaluation.finetuned import BERT, VIT, run, value

PARITY = 2e-5
"""The two loops sum losses and gradient norms in another order."""


def bars(count: int, size: int = 8, channels: int = 0, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Dark images with a bright row (class 0) or column (class 1), at places that vary."""
    shape = (count, size, size, channels) if channels else (count, size, size)
    images, labels = np.full(shape, 20, dtype=np.uint8), np.arange(count) % 2
    for number, image in enumerate(images):
        place = (first + number // 2) % size
        image[(place,) if labels[number] == 0 else (slice(None), place)] = 230
    return images, labels


def save(file: Path, images: np.ndarray, labels: np.ndarray, **more: np.ndarray) -> Path:
    np.savez(file, images=images, labels=labels, **more)
    return file


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "bars"
    folder.mkdir()
    save(folder / "train.npz", *bars(64))
    save(folder / "valid.npz", *bars(32, first=1))
    return folder


OPTIONS = ("evaluation.rates=[2e-3]", "evaluation.train.batch_size=16", "evaluation.train.steps=40")


def test_a_model_learns_classes_that_it_had_no_head_for(tmp_path: Path, data: Path) -> None:
    found = run(tmp_path / "run", "images", {"small": VIT}, f"evaluation.path={data}", *OPTIONS)
    assert value(found, "accuracy") > 0.9
    assert value(found, "accuracy of the most frequent class") == 0.5
    details = found["models"]["small"]["details"]
    assert details["runs"][0]["drawn"] == ["classifier.bias", "classifier.weight"]
    assert found["rows"][0]["task"] == "bars" and found["rows"][0]["count"] == 32


def test_a_run_is_that_of_a_plain_loop_of_transformers(tmp_path: Path, data: Path) -> None:
    """Losses of the first two steps, in the order that the loop drew."""
    from ligo.data.images import Images, ImageShape
    from ligo.data.loader import Batches
    from ligo.tracking.jsonl import read_records

    options = (
        "evaluation.train.steps=2",
        "evaluation.train.schedule=constant",
        "evaluation.train.warmup_fraction=0",
    )
    run(tmp_path / "run", "images", {"small": VIT}, f"evaluation.path={data}", *OPTIONS, *options)
    ours = [
        each["train/loss"]
        for each in read_records(tmp_path / "run" / "metrics.jsonl")
        if "train/loss" in each
    ]
    images, labels = bars(64)
    split = (images.reshape(64, -1), labels)
    batches = Batches(Images(split, split, "", "bars", ImageShape(1, 8, 2, 17)), 17, 16, 0)
    torch.manual_seed(0)
    model = AutoModelForImageClassification.from_pretrained(
        VIT, num_labels=2, ignore_mismatched_sizes=True, dtype=torch.float32
    ).train()
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}]
    optimizer, losses = torch.optim.AdamW(groups, lr=2e-3), []
    for step in range(2):
        rows = torch.from_numpy(batches[step])
        pixels = rows[:, :-1].reshape(-1, 1, 8, 8) / 255 * 2 - 1
        loss = model(pixel_values=pixels, labels=rows[:, -1]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert ours == pytest.approx(losses, abs=PARITY)


def test_a_head_for_as_many_classes_is_the_checkpoints_own(tmp_path: Path) -> None:
    images, labels = bars(40)
    folder = tmp_path / "ten"
    folder.mkdir()
    for name in ("train", "validation"):
        save(folder / f"{name}.npz", images, labels, classes=np.array([f"class {n}" for n in range(10)]))
    found = run(
        tmp_path / "run",
        "images",
        {"small": VIT},
        f"evaluation.path={folder}",
        *OPTIONS,
        "evaluation.train.steps=1",
    )
    assert found["models"]["small"]["details"]["runs"][0]["drawn"] == []


def test_images_of_another_size_are_refused_or_made_to_fit(tmp_path: Path) -> None:
    place = save(tmp_path / "large.npz", *bars(4, size=16, channels=3))
    options = {"channels": 1, "size": 8, "classes": None, "cache": tmp_path / "cache"}
    with pytest.raises(
        DataError,
        match="(?s)image 1: 16 x 16 pixels in 3 channel.s., and the model takes 8 x 8 in 1.*resize=true",
    ):
        read_pictures(place, resize=False, **options)
    fitted = read_pictures(place, resize=True, **options)
    assert fitted.pixels.shape == (4, 64) and fitted.classes == ("0", "1")
    rows = fitted.pixels.reshape(4, 8, 8).astype(int)
    assert (
        rows[0].mean(axis=1).argmax() == 0 and rows[1].mean(axis=0).argmax() == 0
    )  # bars stay where they were


def test_pictures_one_after_another_and_in_folders_are_the_same_images(tmp_path: Path) -> None:
    pillow = pytest.importorskip("PIL.Image")
    images, labels = bars(6, channels=3)
    content = []
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        buffer = io.BytesIO()
        pillow.fromarray(image).save(buffer, "PNG")
        content.append(buffer.getvalue())
        (tmp_path / "train" / str(label)).mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / str(label) / f"{number}.png").write_bytes(content[-1])
    joined = np.frombuffer(b"".join(content), dtype=np.uint8)
    offsets = np.cumsum([0, *map(len, content)])
    np.savez(tmp_path / "flat.npz", jpeg=joined, offsets=offsets, labels=labels)
    options = {"channels": 3, "size": 8, "resize": False, "classes": None, "cache": tmp_path / "cache"}
    flat = read_pictures(tmp_path / "flat.npz", **options)
    folder = read_pictures(find_split(str(tmp_path), "train"), **options)
    assert np.array_equal(flat.pixels, np.moveaxis(images, 3, 1).reshape(6, -1))
    order = np.argsort(labels, kind="stable")  # folders are read class by class
    assert np.array_equal(folder.pixels, flat.pixels[order]) and np.array_equal(folder.labels, labels[order])


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (bars(4)[0], [0, 1, 2, 1], "image 3: the label 2 is none of the 2 classes, 0 to 1"),
        (bars(4)[0], [0, 1], "has 4 images and 2 labels"),
        (bars(4)[0][:0], [], "holds no image"),
        (bars(4)[0].astype(float), [0, 1, 0, 1], "images are float64"),
    ],
)
def test_what_is_wrong_in_a_file_is_refused(
    tmp_path: Path, images: np.ndarray, labels: list[int], words: str
) -> None:
    place = save(tmp_path / "x.npz", images, np.array(labels, dtype=np.int64))
    options = {"channels": 1, "size": 8, "resize": False, "cache": tmp_path}
    with pytest.raises(DataError, match=words):
        read_pictures(place, classes=("0", "1"), **options)


def test_a_missing_split_and_a_model_of_texts_are_refused(tmp_path: Path, data: Path) -> None:
    (data / "valid.npz").unlink()
    with pytest.raises(
        DataError,
        match="(?s)has no split validation .*there is train.npz.*evaluation.validation_path=FILE.npz",
    ):
        run(tmp_path / "run", "images", {"small": VIT}, f"evaluation.path={data}")
    with pytest.raises(
        CheckpointError, match="(?s)models.bert is a BERT model, which reads text.*evaluation=classification"
    ):
        run(tmp_path / "run", "images", {"bert": BERT}, f"evaluation.path={data}")
