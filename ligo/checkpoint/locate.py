"""Find a checkpoint and give back a local folder: a path, a file inside a package, or a hub id.

What the user typed is never replaced by something else: a `path` that is not there is an error, not a
reason to look on the hub. GGUF files are converted once into a stock Hugging Face folder in ligo's cache.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ligo.checkpoint.hashes import write_hashes
from ligo.checkpoint.load import load_gguf
from ligo.checkpoint.pickled import unpickled
from ligo.checkpoint.writer import disk_errors
from ligo.core.errors import CheckpointError, ConfigError, nearest, require
from ligo.core.files import folder_aside
from ligo.core.log import say
from ligo.core.permissions import pickle_allowed

HUB_TIMEOUT_S = 4.0
"""How long the hub may take to answer whether it has a checkpoint."""

_HUB_FILES = [
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "vocab.*",
    "merges.txt",
    "README.md",
]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a checkpoint may be; `path` goes before `package_file`, which goes before `hub_id`."""

    name: str
    """Shown in messages."""
    hub_id: str | None = None
    """owner/name"""
    path: str | None = None
    """A checkpoint folder, or a .gguf file."""
    package_file: str | None = None
    """package:NAME/PATH, a checkpoint folder or a .gguf file inside an installed package."""
    install_hint: str | None = None
    """What to type to install that package."""


def locate(source: Source, *, cache_dir: Path | None = None) -> Path:
    """A local folder that holds the checkpoint.

    Args:
        source: where to look.
        cache_dir: ligo's own cache, for converted files; $LIGO_CACHE or ~/.cache/ligo if None. Hub files
            lie in the hub's own cache.

    Raises:
        CheckpointError: it is nowhere; the message lists each place looked at and why it would not do.
        ConfigError: `package_file` is not package:NAME/PATH, or a package that GGUF needs is missing.
        ResourceError: a GGUF file was converted, and the disk is full.
    """
    if source.path is not None:
        path = Path(source.path).expanduser()
        if source.path and path.exists():
            return _as_folder(path, cache_dir)
        raise _not_found(source, [f"small.path={source.path} (there is no such folder or file)"])

    looked_for = []
    if source.package_file is not None:
        found = packaged(source.package_file)
        if found is not None:
            return _as_folder(found, cache_dir)
        package = _split_reference(source.package_file)[0]
        state = "is installed, but has no such file" if _package_folders(package) else "is not installed"
        looked_for.append(f"file '{source.package_file}' (the package '{package}' {state})")
    if source.hub_id is not None:
        downloaded = _download(source.hub_id)
        if isinstance(downloaded, Path):
            return downloaded
        looked_for.append(f"hub id '{source.hub_id}' (offline or not reachable: {downloaded})")
    raise _not_found(source, looked_for or ["nothing: neither small.path nor small.hub_id is set"])


def packaged(reference: str) -> Path | None:
    """The file or folder that package:NAME/PATH means, or None where it is not installed.

    The package is looked up, not imported: its own dependencies need not be there.

    Raises:
        ConfigError: not of the form package:NAME/PATH, or PATH leaves the package.
    """
    package, inside = _split_reference(reference)
    for folder in _package_folders(package):
        if (folder / inside).exists():
            return folder / inside
    return None


def _split_reference(reference: str) -> tuple[str, str]:
    package, _, inside = reference.removeprefix("package:").partition("/")
    well_formed = reference.startswith("package:") and package.isidentifier() and inside
    if not well_formed or inside.startswith("/") or ".." in Path(inside).parts:
        raise ConfigError(
            f"small.package_file={reference} does not name a file inside a package.\n"
            "  Try: small.package_file=package:NAME/PATH, NAME as in 'import NAME', PATH without '..'"
        )
    return package, inside


def _package_folders(package: str) -> list[Path]:
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return []
    return [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []


def _as_folder(path: Path, cache_dir: Path | None) -> Path:
    """`path` itself if it is a folder, the folder made from it if it is a GGUF file or holds pickles that are allowed."""
    if path.is_dir():
        return unpickled(path, cache_dir or cache_folder()) if pickle_allowed() else path
    if path.suffix.lower() == ".gguf":
        return _converted_gguf(path, cache_dir)
    raise CheckpointError(
        f"{path} is a file, but a checkpoint is a folder (config.json and *.safetensors) or a .gguf file.\n"
        f"  Try: small.path={path.parent}"
    )


def _not_found(source: Source, looked_for: list[str]) -> CheckpointError:
    lines = [
        f"the small checkpoint '{source.name}' could not be had.",
        "  looked for: " + "\n              ".join(looked_for),
    ]
    path = Path(source.path).expanduser() if source.path else None
    close = nearest(path.name, os.listdir(path.parent)) if path and path.parent.is_dir() else None
    if path and close:
        lines.append(f"  Try: small.path={path.parent / close}")
    else:
        lines.append(
            "  Try: small.path=DIR with a Hugging Face checkpoint folder (config.json and *.safetensors)"
        )
    if source.install_hint and source.path is None:
        lines.append(f"   or: {source.install_hint}")
    return CheckpointError("\n".join(lines))


def _download(hub_id: str) -> Path | str:
    """The snapshot folder of a hub id, or a few words on why there is none.

    `snapshot_download` waits without limit for a hub that accepts the connection and never answers, so the
    revision is asked for first, with a limit. Without an answer, what is in the hub's cache will do.
    """
    from huggingface_hub import HfApi, snapshot_download

    try:
        revision = HfApi().model_info(hub_id, timeout=HUB_TIMEOUT_S).sha
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=_HUB_FILES))
    except Exception as error:  # whatever the reason, the user hears it beside the other places looked at
        reason = _short_reason(error)
    try:
        return Path(snapshot_download(hub_id, allow_patterns=_HUB_FILES, local_files_only=True))
    except Exception:
        return f"{reason}; not in the local hub cache"


def _short_reason(error: Exception) -> str:
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    if isinstance(error, GatedRepoError):
        return "its licence has to be accepted on the hub first, then set HF_TOKEN"
    if isinstance(error, RepositoryNotFoundError):
        return "no such repository, or a private one, which needs HF_TOKEN"
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        return f"the hub answered {error.response.status_code}"
    if "timeout" in type(error).__name__.lower():
        return f"no answer within {HUB_TIMEOUT_S:.0f} s"
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    first_line = re.sub(r"^\[Errno -?\d+\] ", "", first_line)
    return first_line if len(first_line) <= 120 else f"{first_line[:117]}..."


def cache_folder() -> Path:
    """ligo's own cache: $LIGO_CACHE, or ~/.cache/ligo."""
    return Path(os.environ.get("LIGO_CACHE") or "~/.cache/ligo").expanduser()


def _converted_gguf(file: Path, cache_dir: Path | None) -> Path:
    """The stock folder made from a GGUF file, made now if it is not there yet.

    It is kept in float32: a dequantised number is a few bits times a float16 scale plus a float16 offset,
    which bfloat16 (8 significant bits) would round once more.
    """
    with open(file, "rb") as handle:
        is_gguf = handle.read(4) == b"GGUF"
        handle.seek(0)
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    if not is_gguf:
        raise CheckpointError(
            f"{file} does not begin like a GGUF file: it is damaged, or something else.\n"
            "  Try: download it again, or small.path=DIR with a Hugging Face checkpoint folder"
        )
    folder = (cache_dir or cache_folder()) / "converted" / f"{file.stem}-{digest[:12]}"
    if folder.is_dir():
        return folder

    for module in ("gguf", "accelerate"):
        require(module, extra="gguf", why=f"reading {file.name}")
    import torch
    from transformers import GgufConfig

    say(f"converting {file.name} to a Hugging Face folder, once: {folder}")
    try:
        unpacked = GgufConfig(dequantize=True)  # else the model stays packed and cannot be saved
        model, tokenizer = load_gguf(file, quantization_config=unpacked, dtype=torch.float32)
    except Exception as error:
        raise CheckpointError(
            f"{file} cannot be converted: {error}\n"
            "  Try: small.path=DIR with a Hugging Face checkpoint folder"
        ) from error
    model.config.__dict__.pop("_model_name_or_path", None)  # the author's own name for it, not a place
    with disk_errors(folder), folder_aside(folder) as aside:
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        write_hashes(aside)
    return folder
