# make demo: pre-train on real images. make test: lint, types, tests, proofs. make bench: the measured figures.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

.PHONY: demo test lint types tests bench docs clean

demo: $(INSTALLED)
	$(BIN)/viewproof pretrain digits

test: lint types tests

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

tests: $(INSTALLED)
	$(BIN)/pytest --numprocesses=auto --maxprocesses=4 --dist=worksteal

bench: $(INSTALLED)
	$(BIN)/python benchmarks/run.py

# The stamp is newer than what decides the versions, so running a target again installs nothing.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $(INSTALLED)

clean:
	rm -rf $(VENV) runs
