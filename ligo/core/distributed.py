"""Ranks: who am I, how many are we, wait for each other. Launchers (torchrun, deepspeed, srun) set the variables."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

# Rank 0 plans, learns and writes while the others wait for it; that may take hours on a large model.
_WAIT = timedelta(hours=24)


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    return rank() == 0


def adopt_slurm_variables() -> None:
    """Take rank and number of ranks from Slurm in a process that srun started; `rank` and `world_size` read them."""
    slurm = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}
    if (
        "RANK" not in os.environ
        and int(os.environ.get("SLURM_NTASKS", "1")) > 1
        and "SLURM_PROCID" in os.environ
    ):
        for name, theirs in slurm.items():
            os.environ[name] = os.environ[theirs]
        nodes = os.environ.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_ADDR", nodes)
        os.environ.setdefault("MASTER_PORT", str(20000 + int(os.environ.get("SLURM_JOB_ID", "0")) % 20000))


def adopt_launcher_variables() -> None:
    """Fill in the variables that torch.distributed and DeepSpeed read, for srun and for a bare start."""
    adopt_slurm_variables()
    for name, value in {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
    }.items():
        os.environ.setdefault(name, value)
    if "MASTER_PORT" not in os.environ:
        os.environ["MASTER_PORT"] = str(_free_port())


def start() -> None:
    """Join the process group: NCCL with GPUs, gloo without."""
    import torch
    import torch.distributed as dist

    if dist.is_initialized():
        return
    adopt_launcher_variables()
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if cuda else "gloo", timeout=_WAIT)


def is_started() -> bool:
    """Whether this process is in a process group."""
    import torch.distributed as dist

    return bool(dist.is_available() and dist.is_initialized())


def stop() -> None:
    """Leave the process group, if there is one.

    DeepSpeed keeps groups of its own beside it, and would use them in the next process group if torch alone
    were told (they are "not registered" there).
    """
    import torch.distributed as dist

    if not is_started():
        return
    deepspeed = sys.modules.get("deepspeed.comm")
    if deepspeed is not None and deepspeed.is_initialized():
        deepspeed.destroy_process_group()
    else:
        dist.destroy_process_group()


def barrier() -> None:
    """Wait for all ranks; nothing to wait for in a single process."""
    if world_size() > 1:
        import torch.distributed as dist

        start()
        dist.barrier()


@contextmanager
def others_wait() -> Iterator[bool]:
    """Rank 0 works in the block (the value is True there); the others skip it and wait at its end."""
    yield is_main()
    barrier()


def mean_over_ranks(value: float) -> float:
    """The mean of one number over all ranks."""
    return _reduce(value, "SUM") / world_size()


def max_over_ranks(value: float) -> float:
    """The largest of one number over all ranks."""
    return _reduce(value, "MAX")


def gather_text(text: str) -> list[str]:
    """A text of every rank, by rank, on all of them."""
    if world_size() == 1:
        return [text]
    import torch
    import torch.distributed as dist

    device = "cuda" if torch.cuda.is_available() else "cpu"
    content = text.encode()
    padded = bytearray(content.ljust(int(max_over_ranks(float(len(content))))))
    mine = torch.frombuffer(padded, dtype=torch.uint8).to(device)
    gathered = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(gathered, mine)
    return [bytes(each.cpu().numpy()).decode().rstrip() for each in gathered]


def _reduce(value: float, operation: str) -> float:
    if world_size() == 1:
        return value
    import torch
    import torch.distributed as dist

    device = "cuda" if torch.cuda.is_available() else "cpu"
    reduced = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(reduced, getattr(dist.ReduceOp, operation))
    return float(reduced)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
