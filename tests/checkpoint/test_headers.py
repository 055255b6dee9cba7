"""A safetensors header is taken where every byte belongs to one tensor, and refused with the reason where not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from ligo.checkpoint.headers import DamagedFile, read_header, sealed, with_room_for_seal
from ligo.checkpoint.load import check_tensors, open_tensors
from ligo.checkpoint.stream import write_tensor_file

A = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def write(path: Path, header: Any, payload: int = 8) -> Path:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(payload))
    return path


def test_what_the_library_writes_is_read(tmp_path: Path) -> None:
    dtypes = (torch.float64, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.bool, torch.complex64)
    tensors = {str(dtype): torch.zeros(3, 2, dtype=dtype) for dtype in dtypes} | {"none": torch.zeros(0, 4)}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt", "name": 'with "quotes"'})
    header = read_header(tmp_path / "x.safetensors")
    assert {name: entry.shape for name, entry in header.tensors.items()} == {
        n: tuple(t.shape) for n, t in tensors.items()
    }
    assert header.metadata == {"format": "pt", "name": 'with "quotes"'}
    assert header.num_bytes == sum(tensor.nbytes for tensor in tensors.values())
    assert (tmp_path / "x.safetensors").read_bytes().startswith(header.content)


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ({"a": A, "b": A}, "overlap"),
        ({"a": {**A, "data_offsets": [8, 16]}}, "leave bytes between"),
        ({}, "take 0 bytes, and 8 follow"),
        ({"a": {**A, "shape": [4], "data_offsets": [0, 16]}}, "take 16 bytes, and 8 follow"),
        ({"a": {**A, "shape": [3]}}, "has 8 bytes, which F32 [3] has not"),
        ({"a": {**A, "shape": [-2]}}, "not whole numbers from 0 on"),
        ({"a": {**A, "shape": [True, 2]}}, "not whole numbers from 0 on"),
        ({"a": {**A, "shape": [2**64, 2**64]}}, "which F32"),
        ({"a": {**A, "data_offsets": [0, 4, 8]}}, "not whole numbers from 0 on"),
        ({"a": {**A, "dtype": "F4"}}, "the dtype 'F4', which is not known"),
        ({"a": {**A, "dtype": ["F32"]}}, "which is not known"),
        ({"a": {**A, "more": 1}}, "and these alone"),
        ({"a": 1}, "and these alone"),
        ({"__metadata__": {"format": 1}, "a": A}, "metadata are not texts"),
        ('{"a": 1, "a": 1}', "a key is there twice"),
        ('[{"a": 1}]', "no JSON object"),
        ("[" * 10_000, "nested more than 64 deep"),
        ('{"a": NaN}', "NaN is no number"),
    ],
)  # fmt: skip
def test_a_header_that_breaks_the_format(tmp_path: Path, header: Any, why: str) -> None:
    file = write(tmp_path / "x.safetensors", header)
    with pytest.raises(DamagedFile) as error:
        read_header(file)
    assert why in str(error.value)


def test_a_length_that_cannot_be(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes((2**40).to_bytes(8, "little"))
    with pytest.raises(DamagedFile, match="shorter than its header"):
        read_header(file)
    with open(file, "r+b") as handle:
        handle.write((2**26).to_bytes(8, "little"))
        handle.truncate(2**27)
    with pytest.raises(DamagedFile, match="its header has 67,108,864 bytes, and none needs more than"):
        read_header(file)
    with pytest.raises(DamagedFile, match="No such file"):
        read_header(tmp_path / "absent")


def test_every_bit_of_a_sealed_file_counts(tmp_path: Path) -> None:
    file, values = tmp_path / "x.safetensors", torch.arange(6.0).view(2, 3)
    write_tensor_file(file, {"a": ("F32", (2, 3))}, [values], {"format": "pt"})
    header, content = check_tensors(file), file.read_bytes()
    assert len(header.metadata["sha256"]) == 64 and header.metadata["sha256"] != "0" * 64
    with open_tensors(file) as handle:
        assert torch.equal(handle.get_tensor("a"), values)
    key = content.index(b'"sha256"')
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        file.write_bytes(changed)
        if key <= bit // 8 < key + len('"sha256"'):  # then it has no seal, and is what it was all the same
            continue
        with pytest.raises(DamagedFile):
            check_tensors(file)


def test_bytes_are_sealed_as_files_are(tmp_path: Path) -> None:
    content = sealed(save({"a": torch.ones(3)}, with_room_for_seal({"name": "x"})))
    (tmp_path / "x").write_bytes(content)
    assert check_tensors(tmp_path / "x").metadata.keys() == {"name", "sha256"}
    (tmp_path / "x").write_bytes(content[:-1] + b"\1")
    with pytest.raises(DamagedFile, match="it is not what was saved"):
        check_tensors(tmp_path / "x")
    with pytest.raises(DamagedFile, match="no SHA-256"):
        sealed(save({"a": torch.ones(3)}, {"name": "x"}))


def test_a_tensor_whose_name_looks_like_a_seal(tmp_path: Path) -> None:
    name = '"sha256":"' + "0" * 64 + '"'
    write_tensor_file(tmp_path / "x", {name: ("U8", (2,))}, [torch.from_numpy(np.ones(2, np.uint8))], {})
    assert list(check_tensors(tmp_path / "x").tensors) == [name]
