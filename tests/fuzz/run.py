"""A campaign on one target with atheris, which follows what its inputs reach.

python -m tests.fuzz.run NAME [libFuzzer's options: -max_total_time=60 -runs=100000]
"""

from __future__ import annotations

import sys
import tempfile

import atheris

from tests.fuzz.targets import HERE, check_of

if __name__ == "__main__":
    target = sys.argv.pop(1)
    with atheris.instrument_imports(include=["ligo", "tests.fuzz"]):
        check = check_of(target)
    with tempfile.TemporaryDirectory() as found:  # what is found new is not kept
        atheris.Setup([*sys.argv, found, str(HERE / "corpus" / target)], check)
        atheris.Fuzz()
