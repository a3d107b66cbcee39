# make demo: pre-train on real images. make test: lint, types, tests, proofs. make bench: the measured figures.
# make docs: the site, in site/. make release-check: wheel and sdist in dist/, installed and run with each extra alone.
# make test-peers and make test-oldest: proofs and certifiers on the newest torch, the core on the oldest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
NEWEST := torch==2.14.1 torchvision==0.29.1
OLDEST := torch==2.9.0 numpy==1.26.4

.PHONY: demo test lint types tests test-peers test-oldest bench fuzz commands torture mutants lock audit licences docs \
	release-check clean

demo: $(INSTALLED)
	$(BIN)/viewproof pretrain digits --method simclr

test: lint types tests

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The library, and a user's program that is typed throughout.
types: $(INSTALLED)
	$(BIN)/mypy
	$(BIN)/mypy examples/typed.py

# Watch forks and looks at every object that lives: its tests are faster in processes that have run no others.
tests: $(INSTALLED)
	$(BIN)/pytest --numprocesses=auto --maxprocesses=4 --dist=worksteal --ignore=tests/watch
	$(BIN)/pytest --numprocesses=auto --maxprocesses=4 --dist=worksteal tests/watch

# What the newest torch or the packages whose models are certified as they are can change: every proof, what is known of
# torch's operators, the files that import one of these packages, the file on each of the main certifiers, and the
# engine of watch. The rest asks the same engines about other programs, and `make tests` has run it. So has it the many
# processes of test_watch_script.py: what is torch's there, the hooks of optimizers and loaders, test_watch_plugin.py asks.
# `watch` forks the process, which it cannot where threads run: its tests have processes without those of the certifiers.
PEERS := tests/symbolic tests/certify/flow tests/certify/test_view.py tests/certify/test_loss.py \
	tests/certify/test_target_branch.py tests/certify/test_pipeline.py tests/certify/test_optimizer.py \
	tests/certify/test_wrong_verdicts.py \
	tests/watch/test_watch_engine.py tests/watch/test_watch_gradients.py tests/watch/test_watch_trained.py \
	$(filter-out %/test_watch_script.py, $(shell grep -rlE '(import|from|importorskip.*") ?(timm|lightly|torchvision|transformers)' \
	--include='*.py' tests/certify tests/watch tests/weights))

test-peers: .venv-peers/installed
	.venv-peers/bin/viewproof prove
	.venv-peers/bin/pytest --numprocesses=auto --maxprocesses=4 --dist=worksteal $(sort $(filter-out tests/watch/%, $(PEERS)))
	.venv-peers/bin/pytest --numprocesses=auto --maxprocesses=4 --dist=worksteal $(sort $(filter tests/watch/%, $(PEERS)))
	.venv-peers/bin/pytest tests/watch/test_watch_in_place.py

# Without Lightning, Z3 and the like: what `import viewproof` alone needs.
test-oldest: .venv-oldest/installed
	.venv-oldest/bin/pytest --numprocesses=auto --maxprocesses=4 --dist=worksteal \
		tests/masks tests/test_views*.py tests/objectives tests/test_package.py \
		--ignore=tests/masks/random/test_random_training.py --ignore=tests/masks/random/test_random_scored.py

# Hostile calls, killed and damaged runs, and mutants of the code that tests must kill: docs/reliability.md.
fuzz: $(INSTALLED)
	$(BIN)/python reliability/fuzz.py --calls 10000

commands: $(INSTALLED)
	$(BIN)/python reliability/commands.py --commands 500

torture: $(INSTALLED)
	$(BIN)/python reliability/torture.py

mutants: $(INSTALLED)
	$(BIN)/python -m pip install --quiet -c constraints.txt cosmic-ray
	$(BIN)/python reliability/mutants.py

# constraints.lock: the files of constraints.txt by their SHA-256. Install exactly them with
# `pip install --require-hashes --no-deps -r constraints.lock`, after torch, whose builds bring libraries of their own.
lock: $(INSTALLED)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile constraints.txt --no-deps --generate-hashes --universal --python-version 3.11.5 \
		--no-header --no-annotate --quiet --output-file constraints.lock

audit: $(INSTALLED)
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/pip-audit --requirement constraints.lock --strict --disable-pip --require-hashes

licences: .venv-peers/installed .venv-docs/installed .venv-release/installed
	PYTHONPATH=$$(echo .venv-docs/lib/*/site-packages):$$(echo .venv-release/lib/*/site-packages) \
		.venv-peers/bin/python reliability/licences.py

bench: $(INSTALLED)
	$(BIN)/python benchmarks/run.py

# Every link is checked. What the solvers say of each theorem is asked once, and again when a proof or a program changes.
docs: .venv-docs/installed build/prove.json
	.venv-docs/bin/python .ci/site_pages.py
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --clean
	rm site/404.html  # it looks for its style at the root of a server

build/prove.json: .venv-docs/installed $(shell find src/viewproof/theorems src/viewproof/symbolic -name '*.py')
	mkdir -p build && rm -f $@
	.venv-docs/bin/viewproof prove --solver both --json $@

# With every Python from 3.11 to 3.13 that is here, on the oldest and on the newest torch.
release-check: .venv-release/installed
	.venv-release/bin/python .ci/release_check.py --pyright --torch $(firstword $(OLDEST)) --torch $(firstword $(NEWEST))

# The stamps are newer than what decides the versions, so running a target again installs nothing. Python compiles the
# modules that are imported, when they first are; pip would compile all 17,000, one after the other. Where containers
# forbid Python to keep what it compiled, each process would compile torch and Lightning again, ten seconds long.
unexport PYTHONDONTWRITEBYTECODE
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e '.[dev]'
	touch $(INSTALLED)

.venv-peers/installed .venv-oldest/installed .venv-docs/installed .venv-release/installed: %/installed: pyproject.toml constraints.txt Makefile
	test -x $*/bin/python || $(PYTHON) -m venv $*
	grep -v $(FREE) constraints.txt > $*/constraints.txt
	$*/bin/python -m pip install --quiet --no-compile -c $*/constraints.txt $(WITH)
	touch $@

.venv-peers/installed: WITH := -e '.[dev,peers]' $(NEWEST)
.venv-peers/installed: FREE := '^torch=='
.venv-oldest/installed: WITH := -e '.[test]' $(OLDEST)
.venv-oldest/installed: FREE := '^\(torch\|numpy\)=='
.venv-docs/installed: WITH := -e '.[docs]'
.venv-docs/installed: FREE := '^$$'
.venv-release/installed: WITH := build
.venv-release/installed: FREE := '^$$'

clean:
	rm -rf $(VENV) .venv-peers .venv-oldest .venv-docs .venv-release build dist site runs
