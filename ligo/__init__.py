"""ligo: grow a small pretrained transformer into a larger one, and count what that saved."""

import sys

__version__ = "0.1.0"

if sys.argv[:1] == [
    "-m"
]:  # Python is looking for `python -m ligo.COMMAND`: Ctrl-C while that is being imported
    from ligo.core import ending

    sys.excepthook = ending.interrupted_early
