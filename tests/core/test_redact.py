"""Secrets are known by shape, by the name before them, or from the environment; ordinary values stay as they are."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import pytest
import yaml

from ligo.core.errors import ConfigError
from ligo.core.files import write_json, write_text
from ligo.core.log import say, warn
from ligo.core.redact import SECRET, published, redact, redact_data, redacted_output
from ligo.core.run import Run
from tests.faults.planted import FORMS, address_part, named, planted


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "around",
    [
        "{}",
        "key is {}, says it",
        '{{"a": "{}"}}',
        "x={}",
        "'{}'",
        "https://u:{}@host/v1",
        "Bearer {}",
        "a\n{}\nb",
    ],
)
def test_every_shape_is_found_wherever_it_stands(form: str, around: str) -> None:
    if "://" in around and " " in FORMS[form]:
        pytest.skip("no address has blanks in it")
    text = around.format(planted(form, "here") if "://" in around else named(form, "here"))
    found = redact(text)
    assert SECRET in found
    assert planted(form, "here") not in found
    assert redact(found) == found
    if around.startswith("{{"):
        assert SECRET in json.loads(found)["a"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("password=hunter2 seed=3", "password=<secret> seed=3"),
        ('{"password": "two words", "seed": 3}', '{"password": "<secret>", "seed": 3}'),
        ("{'api_key': 'abc', 'seed': 3}", "{'api_key': '<secret>', 'seed': 3}"),
        (
            '"{\\"client_secret\\": \\"abc\\", \\"seed\\": 3}"',
            '"{\\"client_secret\\": \\"<secret>\\", \\"seed\\": 3}"',
        ),
        ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG", "aws_secret_access_key = <secret>"),
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: Basic <secret>"),
        ("git clone https://ann:pw@host/x.git", "git clone https://<secret>@host/x.git"),
        ("https://host/file?token=abc123&part=2", "https://host/file?token=<secret>&part=2"),
        (
            "machine api.wandb.ai login user password " + "0f" * 20,
            "machine api.wandb.ai login user password <secret>",
        ),
    ],
)
def test_what_stands_after_a_name_is_a_secret(text: str, expected: str) -> None:
    assert redact(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "commit " + "0f" * 20, "sha256 " + "0f" * 32, "seed=12345678", "train.max_tokens=393216", "num_key_value_heads: 8",
        '"eos_token": "<|endoftext|>", "pad_token": "</s>", "bos_token_id": 1', "train.token_drop=0.15", "key_variable: OPENAI_API_KEY",
        "api_key: null", '"api_key": null', "password: ${oc.env:PASSWORD}", "hf_transformers", "sk-learn-based-experiments",
        "https://arxiv.org/abs/2303.00980", "git@github.com:owner/name.git", "ssh://git@host/x", "export OPENAI_API_KEY=..., or any word",
        "tiny-llama-tiny-llama-2x-ligo-0f0f0f0f", "2026-11-24T13:00:00+00:00", "risk-averse-investments-of-2024", "the bearer of news",
    ],
)  # fmt: skip
def test_ordinary_values_stay_as_they_are(text: str) -> None:
    assert redact(text) == text


def test_values_of_the_environment_are_secrets_where_their_variable_is_named_like_one() -> None:
    environment = {
        "MY_API_KEY": "correct-horse-battery", "DEPLOY_TOKEN": "Zx81-Spectrum", "SSH_AUTH_SOCK": "/run/agent", "MY_KEY": "anything",
        "TOKENIZERS_PARALLELISM": "not-secret-at-all", "PIN_TOKEN": "20260101",
    }  # fmt: skip
    text = "correct-horse-battery Zx81-Spectrum /run/agent anything not-secret-at-all 20260101"
    assert redact(text, environment) == "<secret> <secret> /run/agent anything not-secret-at-all 20260101"


def test_data_keeps_its_form() -> None:
    data = {
        "password": "abc",
        "hf_" + "a1" * 17: [1, 2.5, None, True, ("x", "Bearer abcdefghijkl123")],
        "seed": 3,
    }
    assert redact_data(data) == {
        "password": SECRET,
        SECRET: [1, 2.5, None, True, ["x", f"Bearer {SECRET}"]],
        "seed": 3,
    }


def test_what_is_published_names_no_place_and_no_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "node17")
    data = {
        "command": "python -m ligo.grow data.path=/home/ann/texts/a.txt small.path=~/m/x",
        "on": "ran on node17, not node170",
    }
    assert published(data) == {
        "command": "python -m ligo.grow data.path=a.txt small.path=x", "on": "ran on <host>, not node170"
    }  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_no_sink_lets_a_secret_through(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret, text = planted(form, "sink"), named(form, "sink")
    say("said", text)
    warn(text)
    with redacted_output():
        print(text)
        print(text, file=sys.stderr)
    write_text(tmp_path / "a.yaml", yaml.safe_dump({"option": text, "seed": 3}))
    write_json(tmp_path / "b.json", {"option": text, "seed": 3})
    out, err = capsys.readouterr()
    assert secret not in out + err
    assert (out.count(SECRET), err.count(SECRET)) == (2, 2)
    assert yaml.safe_load((tmp_path / "a.yaml").read_text())["seed"] == 3
    assert json.loads((tmp_path / "b.json").read_text())["seed"] == 3
    assert (
        address_part(secret).encode()
        not in (tmp_path / "a.yaml").read_bytes() + (tmp_path / "b.json").read_bytes()
    )


def test_scripts_of_a_page_are_left_alone(tmp_path: Path) -> None:
    script = "<script>var a={password:b.Password,token:c};</script>"
    write_text(tmp_path / "page.html", f"{script}<p>hf_{'a1' * 17}</p>")
    assert (tmp_path / "page.html").read_text() == f"{script}<p>{SECRET}</p>"


def test_no_run_folder_is_named_by_a_secret() -> None:
    with pytest.raises(ConfigError, match="named by a secret: x-<secret>"):
        Run(Path("runs/default/x-hf_" + "a1" * 17))
