# Everything a developer or a newcomer needs; `make` alone lists it.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup run test check lint types fmt bench demo golden clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# torch goes first and alone: any other spelling can pull gigabytes of CUDA packages on Linux.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'Python 3.11 or later is needed; name one: make PYTHON=python3.12 $(MAKECMDGOALS)'; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
# silero-vad asks for torchaudio; its ONNX file, all that is used of it, needs nothing.
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps silero-vad==6.2.3
	@touch $@

setup: $(VENV)/.installed  ## create the virtual environment

run: setup  ## start the daemon on 127.0.0.1:1799 and [::1]:1799 with the embedded model
	@$(BIN)/pushkin serve

test: setup  ## run the tests
	$(BIN)/pytest

lint: setup  ## style, bans, floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: setup  ## mypy, strict
	$(BIN)/mypy

check: lint types test  ## all that continuous integration runs

fmt: setup  ## rewrite to the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup  ## replay a typist against a daemon of its own; JSON on stdout
	$(BIN)/python -m benchmarks.keystroke

demo: setup  ## continue and rephrase an English and a Russian paragraph, streaming
	@for language in english russian; do \
	  text=examples/$$language.txt; \
	  printf '\n--- %s, continued ---\n' $$language; cat $$text; echo; \
	  $(BIN)/pushkin continue --file $$text --max-tokens 60 || exit 1; \
	  printf '\n\n--- %s, rephrased ---\n' $$language; \
	  $(BIN)/pushkin rephrase --file $$text || exit 1; \
	done; echo

golden: setup  ## rewrite the golden files after a reviewed change
	$(BIN)/pytest --update-golden -q

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache *.egg-info
