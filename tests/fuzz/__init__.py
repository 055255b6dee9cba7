"""Fuzzing: a target is a file `target_NAME.py` here with a function `check(data: bytes)`, and its corpus `corpus/NAME/`.

`check` swallows the errors that ligo raises on purpose, and lets everything else through. Hypothesis calls it in the
default tests, atheris in a campaign: `python -m tests.fuzz.run NAME -max_total_time=60`.
"""
