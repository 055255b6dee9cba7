"""Benchmarks are run by hand; that they still fit the code is seen here."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import REPO


def test_every_benchmark_can_be_imported() -> None:
    names = sorted(file.stem for file in (REPO / "benchmarks").glob("*.py"))
    assert "algebra" in names
    program = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(f'benchmarks.{name}')"
    done = subprocess.run([sys.executable, "-c", program, *names], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
