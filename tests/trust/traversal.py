"""Ways out of a checkpoint folder: each makes a good folder lead to weights or texts that lie elsewhere."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ligo.checkpoint.hashes import SUMS_FILE
from ligo.checkpoint.inspect import ADAPTER_CONFIG, ADAPTER_FILE, INDEX_FILE, inspect_adapter
from ligo.core.errors import CheckpointError
from tests.trust.samples import open_all, published, write_adapter, write_grown
from tests.trust.watch import Opens

Form = Callable[[Path, Path], Path | None]
"""(the folder, the folder elsewhere) -> the folder to open, where it is another one."""


def _index(value: Any) -> Form:
    """The index names, for its first tensor, what leads elsewhere."""

    def form(folder: Path, outside: Path) -> None:
        index = json.loads((folder / INDEX_FILE).read_text())
        name = next(iter(index["weight_map"]))
        index["weight_map"][name] = value(outside) if callable(value) else value
        (folder / INDEX_FILE).write_text(json.dumps(index))

    return form


def _link(name: str, target: str | None = None) -> Form:
    """A file of the folder is a link to one elsewhere."""

    def form(folder: Path, outside: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(outside / (target or name))

    return form


def says(file: str, **keys: Any) -> Form:
    """A JSON file of the folder says something more."""

    def form(folder: Path, _: Path) -> None:
        (folder / file).write_text(json.dumps({**json.loads((folder / file).read_text()), **keys}))

    return form


def linked_folder_in_the_index(folder: Path, outside: Path) -> None:
    (folder / "sub").symlink_to(outside, target_is_directory=True)
    _index("sub/x.safetensors")(folder, outside)


def the_same_key_twice(folder: Path, _: Path) -> None:
    text = (folder / INDEX_FILE).read_text()
    name = json.dumps(next(iter(json.loads(text)["weight_map"])))
    more = f'{name}: "../outside/x.safetensors", {name}'
    (folder / INDEX_FILE).write_text(text.replace(name, more, 1))


def two_weight_maps(folder: Path, _: Path) -> None:
    text = (folder / INDEX_FILE).read_text()
    (folder / INDEX_FILE).write_text('{"weight_map": {"a": "../outside/x.safetensors"}, ' + text[1:])


def a_link_to_a_link(folder: Path, outside: Path) -> None:
    (folder / "x.safetensors").unlink()
    (folder / "z.safetensors").symlink_to(outside / "x.safetensors")
    (folder / "x.safetensors").symlink_to("z.safetensors")


def one_file_and_a_link(folder: Path, outside: Path) -> None:
    (folder / INDEX_FILE).unlink()
    _link("model.safetensors", "x.safetensors")(folder, outside)


def _hub_cache(folder: Path) -> Path:
    snapshot = folder.parent / "models--a--b" / "snapshots" / "rev"
    shutil.copytree(folder, snapshot)
    return snapshot


def a_snapshot_that_links_elsewhere(folder: Path, outside: Path) -> Path:
    snapshot = _hub_cache(folder)
    _link("x.safetensors")(snapshot, outside)
    return snapshot


def a_snapshot_whose_blobs_are_a_link(folder: Path, outside: Path) -> Path:
    snapshot = _hub_cache(folder)
    (snapshot.parent.parent / "blobs").symlink_to(outside, target_is_directory=True)
    (snapshot / "x.safetensors").unlink()
    (snapshot / "x.safetensors").symlink_to("../../blobs/x.safetensors")
    return snapshot


def a_folder_under_the_name_of_a_shard(folder: Path, outside: Path) -> None:
    (folder / "x.safetensors").unlink()
    shutil.copytree(outside, folder / "x.safetensors")


def a_pipe_under_the_name_of_a_shard(folder: Path, _: Path) -> None:
    (folder / "x.safetensors").unlink()
    os.mkfifo(folder / "x.safetensors")


def a_device_under_the_name_of_a_shard(folder: Path, _: Path) -> None:
    (folder / "x.safetensors").unlink()
    (folder / "x.safetensors").symlink_to("/dev/zero")


def linked_chat_templates(folder: Path, outside: Path) -> None:
    (outside / "long.jinja").write_text("elsewhere")
    (folder / "additional_chat_templates").symlink_to(outside, target_is_directory=True)


def a_linked_chat_template(folder: Path, outside: Path) -> None:
    (outside / "long.jinja").write_text("elsewhere")
    (folder / "additional_chat_templates").mkdir()
    _link("additional_chat_templates/long.jinja", "long.jinja")(folder, outside)


def an_adapter_beside_the_model(folder: Path, outside: Path) -> None:
    (folder / ADAPTER_CONFIG).write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(outside)})
    )


def pieces_of_ranks(folder: Path, outside: Path) -> None:
    shutil.copy(outside / "x.safetensors", folder / "shard-00000-model-00001-of-00001.safetensors")


def another_config(folder: Path, outside: Path) -> None:
    _link("config.4.0.0.json", "config.json")(folder, outside)
    says("config.json", configuration_files=["config.4.0.0.json"])(folder, outside)


def a_tensor_that_the_index_does_not_name(folder: Path, _: Path) -> None:
    index = json.loads((folder / INDEX_FILE).read_text())
    index["weight_map"].popitem()
    (folder / INDEX_FILE).write_text(json.dumps(index))


def checksums_of_files_elsewhere(folder: Path, _: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    write_grown(folder)
    with open(folder / SUMS_FILE, "a") as file:
        file.write("0" * 32 + "  ../outside/x.safetensors\n")


def checksums_behind_a_nested_link(folder: Path, outside: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "x.safetensors").symlink_to(outside / "x.safetensors")
    (folder / SUMS_FILE).write_text("0" * 32 + "  sub/x.safetensors\n")


def _adapter(link: str) -> Form:
    def form(folder: Path, outside: Path) -> Path:
        adapter, there = folder.parent / "adapter", outside / "adapter"
        for each in (adapter, there):
            each.mkdir()
            write_adapter(each)
        _link(link, f"adapter/{link}")(adapter, outside)
        return adapter

    return form


FORMS: dict[str, Form] = {
    "..": _index("../outside/x.safetensors"),
    "an absolute path": _index(lambda outside: str(outside / "x.safetensors")),
    ".. behind a folder": _index("sub/../../outside/x.safetensors"),
    ".. behind a file": _index("x.safetensors/../../outside/x.safetensors"),
    ". and ..": _index("./../outside/x.safetensors"),
    "two slashes": _index("..//outside//x.safetensors"),
    "backslashes": _index("..\\outside\\x.safetensors"),
    "a drive": _index("C:x.safetensors"),
    "a URL": _index(lambda outside: (outside / "x.safetensors").as_uri()),
    "a home folder": _index("~/x.safetensors"),
    "a NUL": _index("x.safetensors\0/../../outside/x.safetensors"),
    "percent signs": _index("%2e%2e%2foutside%2fx.safetensors"),
    "wide full stops and slashes": _index("．．／outside／x.safetensors"),  # noqa: RUF001
    "a leader of two dots": _index("\u2025/outside/x.safetensors"),
    "another case": _index("X.SAFETENSORS"),
    "a pickle": _index("../outside/x.bin"),
    "a list": _index(["../outside/x.safetensors"]),
    "no name": _index(None),
    "a linked folder": linked_folder_in_the_index,
    "a key twice": the_same_key_twice,
    "two maps": two_weight_maps,
    "a tensor beside the map": a_tensor_that_the_index_does_not_name,
    "a linked shard": _link("x.safetensors"),
    "a link to a link": a_link_to_a_link,
    "linked weights": one_file_and_a_link,
    "a linked index": _link(INDEX_FILE),
    "a linked config": _link("config.json"),
    "a linked tokenizer": _link("tokenizer.json"),
    "linked settings of a tokenizer": _link("tokenizer_config.json"),
    "a linked generation config": _link("generation_config.json"),
    "a link from a hub cache": a_snapshot_that_links_elsewhere,
    "linked blobs": a_snapshot_whose_blobs_are_a_link,
    "a folder for a shard": a_folder_under_the_name_of_a_shard,
    "a pipe for a shard": a_pipe_under_the_name_of_a_shard,
    "a device for a shard": a_device_under_the_name_of_a_shard,
    "linked chat templates": linked_chat_templates,
    "a linked chat template": a_linked_chat_template,
    "an adapter beside the model": an_adapter_beside_the_model,
    "pieces of ranks": pieces_of_ranks,
    "other weights by config": says("config.json", transformers_weights="../outside/x.safetensors"),
    "another config by config": another_config,
    "kernels by config": says("config.json", _attn_implementation="outside/kernel"),
    "another tokenizer by settings": says(
        "tokenizer_config.json", fast_tokenizer_files=["../outside/tokenizer.4.0.0.json"]
    ),
    "files for a tokenizer": says("tokenizer_config.json", init_inputs=["../outside/tokenizer.json"]),
    "a linked adapter": _adapter(ADAPTER_FILE),
    "a linked adapter config": _adapter(ADAPTER_CONFIG),
    "checksums of files elsewhere": checksums_of_files_elsewhere,
    "checksums behind a nested link": checksums_behind_a_nested_link,
}


@contextmanager
def led_out(root: Path, form: Form) -> Iterator[tuple[Path, Path]]:
    """A folder made by a form, and the folder elsewhere that it leads to."""
    shutil.rmtree(root, ignore_errors=True)
    folder, outside = published(root / "given"), published(root / "outside", seed=1)
    yield form(folder, outside) or folder, outside


def attempt(root: Path, form: Form) -> tuple[str | None, list[str]]:
    """The words of the refusal, or None, and what was opened elsewhere."""
    with led_out(root, form) as (folder, outside), Opens.below(outside) as opened:
        try:
            if folder.name == "adapter":
                inspect_adapter(folder)
            else:
                open_all(folder)
        except CheckpointError as error:
            words = str(error)
        else:
            words = None
    return words, opened
