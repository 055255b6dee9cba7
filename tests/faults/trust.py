"""What may go wrong around a run, on purpose and many times: what must come out of each is counted.

    python -m tests.faults.trust config_edits=2000 shape_lattice=500 secrets=12 fills=10 starts=100 soak=2000 offline=1 endings=42

`fills` and `endings` mount small disks and `offline` takes the network away, so they want namespaces of their own: NAMESPACES
before the command. The last line of JSON says how many trials were good, and what was not.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.faults.leaks import secrets
from tests.faults.runs import offline, soak, starts
from tests.faults.tally import Tally
from tests.faults.troubles import endings, fills
from tests.fuzz.edits import config_edits
from tests.fuzz.lattice import shape_lattice

CAMPAIGNS: dict[str, Callable[[Tally, int], None]] = {
    c.__name__: c for c in (config_edits, shape_lattice, secrets, fills, starts, soak, offline, endings)
}


def main() -> None:
    results = {}
    for argument in sys.argv[1:]:
        name, _, trials = argument.partition("=")
        with tempfile.TemporaryDirectory() as folder:
            os.environ["LIGO_CACHE"] = str(Path(folder) / "cache-of-ligo")
            tally = Tally(Path(folder))
            CAMPAIGNS[name](tally, int(trials))
            results[name] = tally.result()
        print(name, json.dumps(results[name]), file=sys.stderr, flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
