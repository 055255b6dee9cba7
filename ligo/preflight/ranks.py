"""All ranks together: who came, how far clocks and speeds differ, whether nodes reach each other and see one disk.

Ranks talk through a key-value store until all are known to be there, so that a missing one is named instead of waited for.
Every collective is announced in the store before it is entered, so that one that hangs is named too.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import combinations
from pathlib import Path
from typing import Any

from ligo.core.distributed import rank, world_size
from ligo.core.errors import ConfigError
from ligo.preflight.finding import Finding

_SKEW_S = 1.0
_SLOW = 2.0  # times the median
_REDUCED_BYTES = 4 * 2**20
_POLL_S = 0.05


def node_name() -> str:
    """What tells nodes apart: the launcher's number for this one, or the host's name."""
    number = os.environ.get("GROUP_RANK") or os.environ.get("SLURM_NODEID")
    return f"node {number}" if number is not None else socket.gethostname()


class Meeting:
    """The store that all ranks see."""

    def __init__(self, timeout_s: float) -> None:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        self.timeout_s = timeout_s
        by_launcher = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        try:
            self.store = TCPStore(
                os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=rank() == 0 and not by_launcher,
                wait_for_workers=False, timeout=timedelta(seconds=timeout_s),
            )  # fmt: skip
        except RuntimeError as error:
            raise ConfigError(
                f"rank {rank()} cannot reach rank 0 at MASTER_ADDR within {timeout_s:g} s: {str(error).splitlines()[0]}\n"
                "  Try: the same MASTER_ADDR and MASTER_PORT on all nodes, and a port that the firewall lets through"
            ) from error

    def tell(self, topic: str, value: Any) -> None:
        """Leave a value under a topic, for this rank."""
        self.store.set(f"doctor/{topic}/{rank()}", json.dumps(value))

    def ask(self, topic: str, ranks: Sequence[int]) -> tuple[dict[int, Any], list[int]]:
        """What each rank has told under a topic, and the ranks that told nothing before the timeout."""
        told: dict[int, Any] = {}
        until = time.monotonic() + self.timeout_s
        while True:
            told |= {
                other: self._told(topic, other)
                for other in ranks
                if other not in told and self._has(topic, other)
            }
            missing = [other for other in ranks if other not in told]
            if not missing or time.monotonic() > until:
                return dict(sorted(told.items())), missing
            time.sleep(_POLL_S)

    def missing_at(self, topic: str, ranks: Sequence[int]) -> list[int]:
        """Come to a point where all of `ranks` are to meet; those that did not come before the timeout."""
        self.tell(topic, True)
        return self.ask(topic, ranks)[1]

    def _has(self, topic: str, other: int) -> bool:
        try:
            return bool(self.store.check([f"doctor/{topic}/{other}"]))
        except RuntimeError as error:
            raise ConfigError(
                "rank 0, through which the ranks talk, is gone.\n  Try: the log of rank 0, which went first"
            ) from error

    def _told(self, topic: str, other: int) -> Any:
        return json.loads(self.store.get(f"doctor/{topic}/{other}"))

    def leave(self, ranks: Sequence[int]) -> None:
        """Rank 0, which may hold the store, goes last of those that came."""
        self.tell("bye", True)
        if rank() == 0:
            self.ask("bye", ranks)


def rank_findings(folder: Path, timeout_s: float) -> Iterator[Finding]:
    """What all ranks found together; on ranks other than 0 the findings are for the exit code alone.

    Raises:
        ConfigError: this rank cannot reach rank 0.
    """
    if world_size() == 1:
        yield Finding(
            "note", "ranks", "one process: no pairs of nodes to try",
            "start it as you start ligo.grow: torchrun --nproc_per_node 8 -m ligo.doctor",
        )  # fmt: skip
        return
    meeting, everyone = Meeting(timeout_s), range(world_size())
    meeting.tell("here", node_name())
    nodes, missing = meeting.ask("here", everyone)
    if missing:
        yield _missing(missing, "did not come", timeout_s)
    else:
        yield Finding("ok", "ranks", f"{world_size()} ranks on {len(set(nodes.values()))} node(s) came")
        yield from _clocks_and_speeds(meeting, everyone, nodes)
        yield from _one_disk(meeting, folder, everyone)
        yield from _all_reduces(meeting, nodes)
    meeting.leave(list(nodes))


def _missing(ranks: Sequence[int], what: str, timeout_s: float) -> Finding:
    names = ", ".join(map(str, ranks))
    return Finding(
        "failed", "ranks", f"rank {names} {what} within {timeout_s:g} s", "the log of that rank's node; --timeout SECONDS for more patience",
        ConfigError.exit_code,
    )  # fmt: skip


def _clocks_and_speeds(
    meeting: Meeting, everyone: Sequence[int], nodes: Mapping[int, str]
) -> Iterator[Finding]:
    """All read their clocks at one signal; then each times the same arithmetic."""
    if rank() == 0:
        meeting.tell("go", True)
    meeting.store.wait(["doctor/go/0"])
    meeting.tell("clock", time.time())
    meeting.tell("speed", _arithmetic_s())
    clocks, _ = meeting.ask("clock", everyone)
    speeds, missing = meeting.ask("speed", everyone)
    if missing:
        yield _missing(missing, "did not finish a matrix product", meeting.timeout_s)
        return
    skew = max(clocks.values()) - min(clocks.values())
    off = max(clocks, key=lambda other: abs(clocks[other] - statistics.median(clocks.values())))
    if skew > _SKEW_S:
        yield Finding(
            "warning",
            "clocks",
            f"differ by {skew:.2f} s; rank {off} ({nodes[off]}) is furthest off",
            "chrony or ntpd on that node",
        )
    else:
        yield Finding("ok", "clocks", f"agree to {skew:.3f} s")
    for slow, times in slow_ranks(speeds).items():
        yield Finding(
            "warning",
            "speed",
            f"rank {slow} ({nodes[slow]}) takes {times:.1f} times as long as the median rank",
            "what else runs there",
        )
    if not slow_ranks(speeds):
        yield Finding(
            "ok",
            "speed",
            f"all ranks within {_SLOW:g} times the median ({statistics.median(speeds.values()) * 1e3:.1f} ms)",
        )


def slow_ranks(seconds: Mapping[int, float]) -> dict[int, float]:
    """Ranks that took more than twice the median, and how many times it."""
    median = statistics.median(seconds.values())
    return {other: took / median for other, took in seconds.items() if took > _SLOW * median}


def _arithmetic_s() -> float:
    """Seconds of a few matrix products on this rank's device, the fastest of three."""
    import torch

    cuda = torch.cuda.is_available()
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if cuda else "cpu"
    a = torch.ones(1024 if cuda else 256, 1024 if cuda else 256, device=device)
    times = []
    for _ in range(4):
        started = time.perf_counter()
        float((a @ a @ a).sum())
        times.append(time.perf_counter() - started)
    return min(times[1:])


def _one_disk(meeting: Meeting, folder: Path, everyone: Sequence[int]) -> Iterator[Finding]:
    """Rank 0 writes a file; all must see it under the same name."""
    probe = folder / ".doctor-shared"
    if rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text(str(time.time_ns()))
        meeting.tell("written", probe.read_text())
    written, missing = meeting.ask("written", [0])
    if missing:
        yield _missing(missing, "wrote nothing", meeting.timeout_s)
        return
    meeting.tell("seen", probe.exists() and probe.read_text() == written[0])
    seen, missing = meeting.ask("seen", everyone)
    if rank() == 0:
        probe.unlink(missing_ok=True)
    blind = [*missing, *(other for other, sees in seen.items() if not sees)]
    if blind:
        yield Finding(
            "failed", "disk", f"rank {', '.join(map(str, sorted(blind)))} does not see what rank 0 writes to {folder}",
            "run.dir=DIR on a disk that all nodes share", ConfigError.exit_code,
        )  # fmt: skip
    else:
        yield Finding("ok", "disk", "all ranks see what rank 0 writes")


def _all_reduces(meeting: Meeting, nodes: Mapping[int, str]) -> Iterator[Finding]:
    """One all-reduce for each pair of nodes (of their first ranks), then one of all ranks."""
    import torch
    import torch.distributed as dist

    if missing := meeting.missing_at("group", list(nodes)):
        yield _missing(missing, "did not join the process group", meeting.timeout_s)
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    store = dist.PrefixStore("doctor/group", meeting.store)  # type: ignore[attr-defined]
    dist.init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo", store=store, rank=rank(),
        world_size=world_size(), timeout=timedelta(seconds=meeting.timeout_s),
    )  # fmt: skip
    first = {node: min(r for r in nodes if nodes[r] == node) for node in dict.fromkeys(nodes.values())}
    pairs = {f"{a} and {b}": [first[a], first[b]] for a, b in combinations(first, 2)}
    seconds: dict[str, float] = {}
    for between, ranks in {**pairs, "all ranks": list(range(world_size()))}.items():
        took, missing = _all_reduce(meeting, between, ranks)
        if missing:
            yield _missing(missing, f"did not get through the all-reduce of {between}", meeting.timeout_s)
            return
        seconds[between] = max(took.values())
    rates = {between: _REDUCED_BYTES / s / 2**20 for between, s in seconds.items()}
    everyone = rates.pop("all ranks")
    yield Finding("ok", "all-reduce", f"all ranks: {everyone:.0f} MiB/s")
    if not pairs:
        yield Finding("note", "all-reduce", "one node: no pairs of nodes to try")
        return
    slowest, median = min(rates, key=lambda between: rates[between]), statistics.median(rates.values())
    level = "warning" if rates[slowest] * _SLOW < median else "ok"
    yield Finding(
        level,
        "all-reduce",
        f"{len(pairs)} pair(s) of nodes, the slowest {slowest}: {rates[slowest]:.0f} MiB/s (median {median:.0f})",
    )
    dist.destroy_process_group()


def _all_reduce(meeting: Meeting, between: str, ranks: Sequence[int]) -> tuple[dict[int, float], list[int]]:
    """Seconds that each rank took, and the ranks that did not come through."""
    import torch
    import torch.distributed as dist

    if missing := meeting.missing_at(f"before {between}", range(world_size())):
        return {}, missing
    group = dist.new_group(list(ranks))  # all ranks must make it, in the same order
    if rank() in ranks:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        numbers = torch.ones(_REDUCED_BYTES // 4, device=device)
        try:
            times = []
            for _ in range(3):
                started = time.perf_counter()
                dist.all_reduce(numbers, group=group)
                float(numbers[0])
                times.append(time.perf_counter() - started)
            meeting.tell(between, min(times))
        except RuntimeError:  # a timeout; who did not come is read from the store
            pass
    return meeting.ask(between, ranks)
