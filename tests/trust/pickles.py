"""Pickles that touch a file when they are read, in twenty ways, under every name that a loader might read as a pickle."""

from __future__ import annotations

import base64
import importlib
import io
import marshal
import os
import pickle
import shutil
import struct
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ligo.checkpoint.hashes import SUMS_FILE
from ligo.checkpoint.inspect import ADAPTER_FILE, INDEX_FILE, WEIGHTS_FILE, inspect_adapter
from ligo.checkpoint.optimizer import OPTIMIZER_FILE, open_optimizer_state
from ligo.core.errors import LigoError
from ligo.data.config import DataConfig
from ligo.data.images import ImageShape, prepare_images
from tests.trust.samples import family, open_all, published, weights, write_adapter

# --- kinds: what runs, and how it is written ------------------------------------------------------------------


class _Calls:
    """Pickled as the call of a function."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self._reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self._reduced


def _dumped(function: Any, *arguments: Any, protocol: int = 2) -> bytes:
    return pickle.dumps(_Calls(function, *arguments), protocol)


def _line(text: str) -> bytes:
    return b"V" + text.encode("raw-unicode-escape") + b"\n"


def _name(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _stack_global(module: str, name: str) -> bytes:
    def short(text: str) -> bytes:
        return b"\x8c" + bytes([len(text)]) + text.encode()

    return b"\x80\x04" + short(module) + short(name) + b"\x93"


def _shell(canary: Path) -> str:
    return f"touch '{canary}'"


def _python(canary: Path) -> str:
    return f"open({str(canary)!r}, 'w').close()"


def _by_state(canary: Path) -> bytes:
    """BUILD gives an object a __setstate__, which the next BUILD calls."""
    given = b"}" + _line("__setstate__") + _name("builtins", "exec") + b"sb"
    return b"\x80\x02" + _name("types", "SimpleNamespace") + b")R" + given + _line(_python(canary)) + b"b."


def _code_object(canary: Path) -> bytes:
    code = marshal.dumps(compile(_python(canary), "x", "exec"))
    return (
        b"\x80\x02" + _name("types", "FunctionType") + b"(" + _name("marshal", "loads") + b"B" + struct.pack("<I", len(code))
        + code + b"\x85R}tR)R."
    )  # fmt: skip


def _nested(canary: Path) -> bytes:
    """What torch made storages of once: a pickle inside a pickle."""
    buffer = io.BytesIO()
    torch.save(_Calls(exec, _python(canary)), buffer)
    return _dumped(torch.storage._load_from_bytes, buffer.getvalue())


def _imported(module: str, name: str, *arguments: Any, protocol: int = 2) -> bytes:
    return _dumped(getattr(importlib.import_module(module), name), *arguments, protocol=protocol)


KINDS: dict[str, Callable[[Path], bytes]] = {
    "os.system, protocol 2": lambda c: _imported("os", "system", _shell(c)),
    "os.system, protocol 0": lambda c: _imported("os", "system", _shell(c), protocol=0),
    "os.system, protocol 4": lambda c: _imported("os", "system", _shell(c), protocol=4),
    "os.spawnlp": lambda c: _imported("os", "spawnlp", os.P_WAIT, "touch", "touch", str(c)),
    "subprocess.call": lambda c: _imported("subprocess", "call", ["touch", str(c)]),
    "subprocess.check_output": lambda c: _imported("subprocess", "check_output", ["touch", str(c)]),
    "exec": lambda c: _dumped(exec, _python(c)),
    "eval": lambda c: _dumped(eval, f"__import__('os').system({_shell(c)!r})"),
    "open": lambda c: _dumped(open, str(c), "w"),
    "Path.touch": lambda c: b"\x80\x04" + _name("pathlib", "Path.touch") + _name("pathlib", "PosixPath")
    + _line(str(c)) + b"\x85R\x85R.",
    "shutil.copyfile": lambda c: _imported("shutil", "copyfile", __file__, str(c)),
    "os.mkdir": lambda c: _imported("os", "mkdir", str(c)),
    "runpy._run_code": lambda c: _imported("runpy", "_run_code", _python(c), {}),
    "timeit.timeit": lambda c: _imported("timeit", "timeit", _python(c), "pass", time.perf_counter, 1),
    "code.InteractiveInterpreter": lambda c: b"\x80\x04" + _name("code", "InteractiveInterpreter.runcode")
    + _name("code", "InteractiveInterpreter") + b")R" + _line(_python(c)) + b"\x86R.",
    "INST": lambda c: b"(" + _line(_shell(c)) + b"ios\nsystem\n.",
    "OBJ": lambda c: b"(" + _name("os", "system") + _line(_shell(c)) + b"o.",
    "STACK_GLOBAL": lambda c: _stack_global("os", "system") + _line(_shell(c)) + b"\x85R.",
    "BUILD": _by_state,
    "code object": _code_object,
    "a pickle in a pickle": _nested,
    "base64 in exec": lambda c: _dumped(
        exec, f"import base64; exec(base64.b64decode({base64.b64encode(_python(c).encode())!r}))"
    ),
}  # fmt: skip


# --- containers: what a file of such a pickle looks like ---------------------------------------------------------


def _plain(payload: bytes) -> bytes:
    return payload


def _zip(payload: bytes) -> bytes:
    """As torch.save writes since 1.6."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", payload)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return buffer.getvalue()


def _legacy(payload: bytes) -> bytes:
    """As torch.save wrote before: four pickles one after another."""
    head = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    return b"".join(head) + payload + pickle.dumps([], 2)


def _npy(payload: bytes) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|O", "fortran_order": False, "shape": (1,)})
    return buffer.getvalue() + payload


def _npz(payload: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("images", "labels"):
            archive.writestr(f"{name}.npy", _npy(payload))
    return buffer.getvalue()


CONTAINERS: dict[str, Callable[[bytes], bytes]] = {"plain": _plain, "zip": _zip, "legacy": _legacy}

# --- places: where it lies, and what reads the folder -------------------------------------------------------------

Place = Callable[[Path, bytes], Callable[[], object]]
"""(an empty folder, the file) -> what to call."""


def _beside(*names: str) -> Place:
    """Beside good weights: they are read, it is not."""

    def place(folder: Path, content: bytes) -> Callable[[], object]:
        published(folder / "model")
        for name in names:
            (folder / "model" / name).parent.mkdir(exist_ok=True)
            (folder / "model" / name).write_bytes(content)
        return lambda: open_all(folder / "model")

    return place


def _instead(*names: str) -> Place:
    """In place of the weights."""

    def place(folder: Path, content: bytes) -> Callable[[], object]:
        model = published(folder / "model")
        for name in (INDEX_FILE, "x.safetensors", "y.safetensors"):
            (model / name).unlink()
        for name in names:
            (model / name).write_bytes(content)
        return lambda: open_all(model)

    return place


def _adapter(name: str, *, alone: bool) -> Place:
    def place(folder: Path, content: bytes) -> Callable[[], object]:
        adapter = folder / "adapter"
        adapter.mkdir()
        write_adapter(adapter)
        for file in adapter.glob(SUMS_FILE):
            file.unlink()
        if alone:
            (adapter / ADAPTER_FILE).unlink()
        (adapter / name).write_bytes(content)
        return lambda: inspect_adapter(adapter)

    return place


def _state(name: str) -> Place:
    """A state of an optimiser."""

    def place(folder: Path, content: bytes) -> Callable[[], object]:
        (folder / name).write_bytes(content)
        return lambda: open_optimizer_state(folder, str(folder / name), family())

    return place


def _universal(folder: Path, content: bytes) -> Callable[[], object]:
    """DeepSpeed's universal checkpoint: a file for each moment of each parameter."""
    for name in weights():
        (folder / "zero" / name).mkdir(parents=True)
        for moment in ("exp_avg", "exp_avg_sq", "step"):
            (folder / "zero" / name / f"{moment}.pt").write_bytes(content)
    return lambda: open_optimizer_state(folder, str(folder), family())


def _images(folder: Path, content: bytes) -> Callable[[], object]:
    (folder / "images.npz").write_bytes(_npz(content))
    config = DataConfig(path=str(folder / "images.npz"), cache_dir=str(folder / "cache"))
    return lambda: prepare_images(config, ImageShape(1, 8, 10, 17))


PLACES: dict[str, Place] = {
    "pytorch_model.bin": _instead("pytorch_model.bin"),
    "pytorch_model.bin.index.json": _instead("pytorch_model.bin.index.json", "pytorch_model.bin"),
    "model.pt": _instead("model.pt"),
    "model.pth": _instead("model.pth"),
    "model.ckpt": _instead("model.ckpt"),
    "weights.pkl": _instead("weights.pkl"),
    "model.safetensors": _instead(WEIGHTS_FILE),
    "model.safetensors.index.json": _instead(INDEX_FILE),
    "pickles beside weights": _beside(
        "pytorch_model.bin", "training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "model.ckpt",
        ".metadata", "__0_0.distcp", "arrays.npy", "consolidated.00.pth", "tf_model.h5", "flax_model.msgpack",
    ),
    "tokenizer pickles": _beside("tokenizer.pkl", "vocab.pkl", "vocab.bin", "tokenizer.bin", "merges.pkl"),
    "config.json": _beside("config.json"),
    "tokenizer.json": _beside("tokenizer.json"),
    "tokenizer.model": _beside("tokenizer.model"),
    "tokenizer_config.json": _beside("tokenizer_config.json"),
    "generation_config.json": _beside("generation_config.json"),
    "custom_generate/generate.py": _beside("custom_generate/generate.py"),
    "adapter_model.bin": _adapter("adapter_model.bin", alone=True),
    "adapter_model.bin beside": _adapter("adapter_model.bin", alone=False),
    "adapter_model.safetensors": _adapter(ADAPTER_FILE, alone=False),
    "optimizer.pt": _state("optimizer.pt"),
    "optimizer.bin": _state("optimizer.bin"),
    "optimizer.safetensors": _state(OPTIMIZER_FILE),
    "a universal checkpoint": _universal,
    "images.npz": _images,
}  # fmt: skip


def fires(kind: str, canary: Path) -> bool:
    """Whether a pickle of this kind does what it is for, where somebody does read it."""
    with suppress(Exception):  # after the deed
        pickle.loads(KINDS[kind](canary))
    return removed(canary)


def removed(canary: Path) -> bool:
    """Whether the canary was there."""
    if canary.is_dir():
        canary.rmdir()
        return True
    try:
        canary.unlink()
    except FileNotFoundError:
        return False
    return True


def read(root: Path, kind: str, container: str, place: str, canary: Path) -> tuple[bool, str]:
    """(whether it ran, what was said); the folder is made anew."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    call = PLACES[place](root, CONTAINERS[container](KINDS[kind](canary)))
    try:
        call()
    except LigoError as error:
        said = str(error)
    else:
        said = "read"
    return removed(canary), said
