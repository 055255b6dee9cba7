"""Whatever a command runs into, it ends in words with a documented code; a traceback is shown where it is asked for."""

from __future__ import annotations

import errno
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from ligo.core.ending import ending, explain
from ligo.core.errors import CheckpointError, ConfigError, DamagedError, Interrupted, ResourceError
from ligo.core.files import folder_aside, read_json
from ligo.core.run import Run
from tests.conftest import REPO


def end(error: BaseException, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code and the words that a command ends with."""
    with pytest.raises(SystemExit) as stop, ending():
        raise error
    return int(stop.value.code or 0), capsys.readouterr().err


def out_of_memory_of_torch() -> BaseException:
    import torch

    return torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.10 GiB"
    )


def allocation_that_fails() -> BaseException:
    import torch

    try:
        torch.empty(2**50)
    except RuntimeError as error:
        return error
    raise AssertionError("a petabyte was to be had")


def offline(module: str, name: str) -> BaseException:
    return type(name, (Exception,), {"__module__": module})("cannot connect to host.example")


@pytest.mark.parametrize(
    ("make", "code", "words"),
    [
        (lambda: ConfigError("wrong.\n  Try: right"), 2, "ConfigError: wrong.\n  Try: right"),
        (KeyboardInterrupt, 130, "interrupted; the same command goes on"),
        (lambda: MemoryError("Unable to allocate 8.00 GiB for an array"), 5, "Unable to allocate 8.00 GiB"),
        (allocation_that_fails, 5, "4096.0 TiB could not be had"),
        (out_of_memory_of_torch, 5, "the memory of a GPU is not enough: CUDA out of memory. Tried to allocate 20.00 GiB"),
        (lambda: OSError(errno.ENOMEM, "Cannot allocate memory"), 5, "the memory of this machine is not enough"),
        (lambda: SystemError("error return without exception set"), 5, "the memory of this machine is not enough"),
        (lambda: OSError(errno.ENOSPC, "No space left on device", "/d/f"), 5, "the disk is full while writing /d/f"),
        (lambda: OSError(errno.EROFS, "Read-only file system", "/d/f"), 5, "cannot use /d/f: Read-only file system"),
        (lambda: OSError(errno.EMFILE, "Too many open files"), 5, "ulimit -n"),
        (lambda: socket.gaierror(-3, "Temporary failure in name resolution"), 75, "the network does not answer"),
        (lambda: ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), 75, "the network does not answer"),
        (lambda: OSError(errno.ENETUNREACH, "Network is unreachable"), 75, "tracking.wandb=offline"),
        (lambda: offline("httpx", "ConnectError"), 75, "cannot connect to host.example"),
        (lambda: RuntimeError("[gloo/transport/tcp/pair.cc:554] Connection closed by peer"), 75, "another rank is gone"),
        (lambda: offline("wandb.errors", "UsageError"), 2, "W&B stops: cannot connect"),
    ],
)  # fmt: skip
def test_what_the_machine_does_is_put_in_words(
    make: type, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found, err = end(make(), capsys)
    assert found == code, err
    assert words in err
    assert "Traceback" not in err
    assert code == 130 or "Try: " in err


def test_an_error_of_ligo_says_where_and_shows_its_traceback_when_asked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, err = end(KeyError("nobody thought of that"), capsys)
    assert code == 1
    assert "KeyError: 'nobody thought of that' (test_ending.py, line" in err
    assert "LIGO_DEBUG=1" in err and "Traceback" not in err
    monkeypatch.setenv("LIGO_DEBUG", "1")
    code, err = end(KeyError("nobody thought of that"), capsys)
    assert code == 1 and "Traceback (most recent call last)" in err
    monkeypatch.setenv("LIGO_DEBUG", "0")
    assert "Traceback" not in end(KeyError("nobody thought of that"), capsys)[1]


def test_the_traceback_of_a_run_is_kept_in_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path / "run")
    run.open({"seed": 0}, "seed: 0\n", seed=0)
    with pytest.raises(SystemExit), ending(), run.keeping_status():
        raise ZeroDivisionError("after three days, with hf_" + "a1" * 17)
    kept = (run.folder / "logs" / "traceback.txt").read_text()
    assert "ZeroDivisionError: after three days, with <secret>" in kept and "test_ending.py" in kept
    err = capsys.readouterr().err
    assert f"The traceback is in {run.folder}/logs/traceback.txt" in err
    assert "Traceback (most" not in err


def test_errors_with_words_keep_no_traceback(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.open({"seed": 0}, "seed: 0\n", seed=0)
    for error in (ResourceError("no room"), Interrupted("stopped", 75), KeyboardInterrupt()):
        with pytest.raises(type(error)), run.keeping_status():
            raise error
    assert not (run.folder / "logs").exists()


def test_secrets_are_kept_out_of_messages_and_tracebacks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIGO_DEBUG", "1")
    secret = "ghp_" + "a1B2" * 9
    _, err = end(CheckpointError(f"https://ann:pw@host/{secret} is not there.\n  Try: another"), capsys)
    assert secret not in err and "ann:pw" not in err
    assert "https://<secret>@host/<secret> is not there" in err


def test_a_lost_connection_is_no_reader_that_has_seen_enough(capsys: pytest.CaptureFixture[str]) -> None:
    code, err = end(BrokenPipeError(errno.EPIPE, "Broken pipe"), capsys)
    assert (code, "the network does not answer: [Errno 32] Broken pipe" in err) == (75, True)


def test_a_refused_file_of_weights_is_named_as_such() -> None:
    from safetensors import SafetensorError

    told = explain(SafetensorError("Error while deserializing header: invalid header"))
    assert isinstance(told, CheckpointError)
    assert "invalid header" in str(told)


def test_a_damaged_file_of_ligos_own_is_named(tmp_path: Path) -> None:
    path = tmp_path / "stages.json"
    for content in (b"{", b"\xff\xfe", b""):
        path.write_bytes(content)
        with pytest.raises(DamagedError, match="stages.json is damaged(.|\n)*Try: ") as error:
            read_json(path)
        assert error.value.exit_code == 3
        assert isinstance(error.value, ValueError)


def test_a_folder_is_under_its_name_at_any_instant_but_that_of_two_renames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removing what is replaced takes long on a large folder: the new one is there before that begins."""
    import shutil

    final, seen = tmp_path / "folder", list[str]()
    (final).mkdir()
    (final / "file").write_text("old")
    remove = shutil.rmtree

    def look(path: Path, **options: bool) -> None:
        if Path(path).exists():
            seen.append((final / "file").read_text())
        remove(path, **options)

    monkeypatch.setattr(shutil, "rmtree", look)
    with folder_aside(final) as aside:
        (aside / "file").write_text("new")
    assert seen == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_words_that_cannot_be_printed_change_no_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    full = open("/dev/full", "w")  # noqa: SIM115  closing it fails too
    with monkeypatch.context() as patched, pytest.raises(SystemExit) as stop:
        patched.setattr(sys, "stderr", full)
        with ending():
            raise ConfigError("nobody reads this")
    with suppress(OSError):
        full.close()
    assert stop.value.code == 2


def test_ctrl_c_while_a_command_is_being_imported_is_no_traceback() -> None:
    code = "import sys; sys.argv[:1] = ['-m']; import ligo; raise KeyboardInterrupt"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == -signal.SIGINT  # which a shell shows as 130
    assert done.stderr.startswith("Interrupted: interrupted; the same command goes on")
    assert "Traceback" not in done.stderr
