"""CITATION.cff, CHANGELOG.md and setup.py name one version; the citation has what the format requires."""

from __future__ import annotations

import re

import yaml

from tests.docs.blocks import REPO

VERSION = re.search(r'version="([^"]+)"', (REPO / "setup.py").read_text(encoding="utf-8"))


def test_the_citation_has_what_the_format_requires_and_names_this_version() -> None:
    citation = yaml.safe_load((REPO / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert VERSION is not None
    assert citation["version"] == VERSION[1]
    assert citation["license"] == "Apache-2.0"


def test_the_newest_entry_of_the_changelog_is_this_version_in_the_form_it_names() -> None:
    text = (REPO / "CHANGELOG.md").read_text(encoding="utf-8")
    entries = re.findall(r"^## (\d+\.\d+\.\d+) - (unreleased|\d{4}-\d{2}-\d{2})$", text, re.M)
    assert VERSION is not None
    assert entries[0][0] == VERSION[1]
    sections = re.findall(r"^### (\w+)$", text, re.M)
    assert set(sections) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
