"""This machine alone: versions, devices, DeepSpeed's ops, ports, disks."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from ligo.core import units
from ligo.core.errors import ConfigError, ResourceError
from ligo.core.libraries import quiet_libraries
from ligo.core.run import hardware, versions
from ligo.preflight.finding import Finding

_WRITE_BYTES = 16 * 2**20
_LITTLE_DISK = 10 * 2**30
_LITTLE_SHM = 2**30
_OLD_LOCK_S = 600.0


def machine_findings(folder: Path) -> Iterator[Finding]:
    """All of this machine, one after another.

    Args:
        folder: where runs are to lie.
    """
    yield Finding("note", "versions", ", ".join(f"{name} {version}" for name, version in versions().items()))
    yield from devices()
    yield from deepspeed_ops()
    yield port()
    yield from disks(folder)


def devices() -> Iterator[Finding]:
    """Cores, memory and GPUs; each GPU multiplies two matrices."""
    import torch

    memory = {line.split(":")[0]: line.split()[1] for line in Path("/proc/meminfo").read_text().splitlines()}
    total, free = (1024 * int(memory[key]) for key in ("MemTotal", "MemAvailable"))
    yield Finding(
        "ok", "cpu", f"{hardware()}, {units.num_bytes(free)} of {units.num_bytes(total)} memory free"
    )
    if not torch.cuda.is_available():
        yield Finding("note", "gpu", "none that torch can use: runs go on the CPU")
    for index in range(torch.cuda.device_count()):
        yield _gpu(index)


def _gpu(index: int) -> Finding:
    import torch

    name = torch.cuda.get_device_name(index)
    try:
        free, total = torch.cuda.mem_get_info(index)
        ones = torch.ones(1024, 1024, device=f"cuda:{index}")
        right = float((ones @ ones).sum()) == 1024.0**3
    except RuntimeError as error:
        return Finding(
            "failed", "gpu", f"{index}: {name} does not work: {str(error).splitlines()[0]}",
            "nvidia-smi, and CUDA_VISIBLE_DEVICES without it", ResourceError.exit_code,
        )  # fmt: skip
    if not right:
        return Finding(
            "failed",
            "gpu",
            f"{index}: {name} multiplies wrongly",
            "CUDA_VISIBLE_DEVICES without it",
            ResourceError.exit_code,
        )
    memory = f"{units.num_bytes(free)} of {units.num_bytes(total)} free"
    if free < total / 2:
        return Finding(
            "warning", "gpu", f"{index}: {name}, {memory}: something else uses it", "nvidia-smi shows what"
        )
    return Finding(
        "ok", "gpu", f"{index}: {name}, {memory}, bf16 {'yes' if torch.cuda.is_bf16_supported() else 'no'}"
    )


def deepspeed_ops() -> Iterator[Finding]:
    """Whether DeepSpeed is there, what compiling its ops would take, and compiles that were killed."""
    if "deepspeed" not in versions():
        yield Finding(
            "warning",
            "deepspeed",
            "not installed: one process with train.engine=torch",
            "pip install 'ligo[deepspeed]'",
        )
        return
    missing = [tool for tool in ("ninja", "c++") if shutil.which(tool) is None]
    if missing:
        yield Finding(
            "note",
            "deepspeed",
            f"no {' and no '.join(missing)} on the PATH: its ops cannot be compiled; ligo needs none of them",
        )
    else:
        yield Finding(
            "ok", "deepspeed", f"ops that can be compiled here: {', '.join(_ops())}; ligo needs none of them"
        )
    for lock in stale_locks():
        yield Finding(
            "failed", "deepspeed", f"a compile that was killed left {lock}: the next start that compiles waits for ever",
            f"rm {lock}", ConfigError.exit_code,
        )  # fmt: skip


def _ops() -> list[str]:
    """DeepSpeed's ops that this machine has what it takes for."""
    quiet_libraries()
    from deepspeed.ops.op_builder.all_ops import ALL_OPS

    named = {name: builder for name, builder in ALL_OPS.items() if not name.startswith("deepspeed_")}
    return [name for name, builder in named.items() if builder.is_compatible(verbose=False)]


def stale_locks() -> list[Path]:
    """Lock files of torch's extension builds that nobody has touched for ten minutes."""
    from torch.utils.cpp_extension import get_default_build_root

    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    locks = [path for pattern in ("*/lock", "*/*/lock") for path in root.glob(pattern)]
    return [lock for lock in locks if time.time() - lock.stat().st_mtime > _OLD_LOCK_S]


def port() -> Finding:
    """Whether ranks can be listened for: on MASTER_PORT, where a launcher has not opened it already."""
    wanted = int(os.environ.get("MASTER_PORT", "0")) if os.environ.get("RANK", "0") == "0" else 0
    by_launcher = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    with socket.socket() as listener:
        try:
            listener.bind(("", 0 if by_launcher else wanted))
            listener.listen()
        except OSError as error:
            return Finding(
                "failed",
                "port",
                f"cannot listen on {wanted}: {error.strerror}",
                "another MASTER_PORT",
                ConfigError.exit_code,
            )
        return Finding(
            "ok", "port", f"can listen on {'MASTER_PORT' if wanted and not by_launcher else 'a free port'}"
        )


def disks(folder: Path) -> Iterator[Finding]:
    """Whether `folder` can be written as runs are written, how fast, and the room there, in the cache and in /dev/shm."""
    cache = Path(os.environ.get("LIGO_CACHE") or "~/.cache/ligo").expanduser()
    yield _writing(folder)
    for name, path, little in (
        ("runs", folder, _LITTLE_DISK),
        ("cache", cache, _LITTLE_DISK),
        ("shared memory", Path("/dev/shm"), _LITTLE_SHM),
    ):
        free = shutil.disk_usage(_existing(path)).free
        level = "warning" if free < little else "ok"
        yield Finding(
            level, "disk", f"{units.num_bytes(free)} free for {name}" + (": little" if free < little else "")
        )


def _writing(folder: Path) -> Finding:
    """Write aside, flush, rename, lock: what run folders rely on."""
    aside, final = folder / f".doctor-{os.getpid()}.tmp", folder / f".doctor-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        with open(aside, "wb") as file:
            file.write(os.urandom(_WRITE_BYTES))
            file.flush()
            os.fsync(file.fileno())
        rate = _WRITE_BYTES / (time.perf_counter() - started)
        os.replace(aside, final)
        with open(final, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return Finding(
            "failed", "disk", f"{folder} cannot be written as runs are: {error.strerror or error}",
            "another folder: python -m ligo.doctor DIR", ResourceError.exit_code,
        )  # fmt: skip
    finally:
        aside.unlink(missing_ok=True) if folder.is_dir() else None
        final.unlink(missing_ok=True) if folder.is_dir() else None
    return Finding("ok", "disk", f"written, flushed, renamed and locked at {units.num_bytes(rate)}/s")


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
