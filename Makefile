# What you do on a working day; CI runs the same. Everything lives in .venv, made on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Processes of the tests; each takes about 1.3 GB of memory.
WORKERS ?= 2
IN_PARALLEL := --numprocesses $(WORKERS) --dist worksteal
DEMO_ROOT ?= demo-runs
# Halving would leave about 6 of 12 trials, and which ones would depend on the machine's speed.
DEMO := --run-root $(DEMO_ROOT) --protocol demo --search-spaces search_spaces/demo \
  --rows contrastive contrastive+wpm --no-early-stopping
# Of the demo's studies only: the folder may hold others.
DEMO_STUDIES := --run-root $(DEMO_ROOT) --dataset glyphs --protocol demo

.PHONY: help demo test test-all cluster-test check bench format clean
.DEFAULT_GOAL := help

help:
	@echo "make demo          search two rows, retrain and test the best, write a report (6 minutes)"
	@echo "make test          run the tests that need no Ray, in 2 processes (WORKERS=8 for 8)"
	@echo "make test-all      run all tests, with Ray, killed processes and full disks"
	@echo "make cluster-test  start real clusters on this machine, as root (many minutes)"
	@echo "make check         check the code with ruff and strict mypy"
	@echo "make format        let ruff format and fix the code"
	@echo "make bench         run the benchmarks in their short forms on this machine (5 minutes)"
	@echo "make clean         delete .venv, the demo's runs and the caches of the tools"

$(VENV)/.installed: requirements.txt
	$(PYTHON) -c 'import sys; assert (3, 11, 4) <= sys.version_info[:3] < (3, 14), "needs Python 3.11.4 to 3.13, set PYTHON=..."'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python launch.py $(DEMO)
	$(BIN)/python launch.py $(DEMO) --best-only
	$(BIN)/python -m analysis.rank_trials $(DEMO_STUDIES) --progress
	$(BIN)/python -m analysis.table $(DEMO_STUDIES)
	$(BIN)/python -m analysis.report $(DEMO_STUDIES) --out $(DEMO_ROOT)/report.html
	@echo "The lines 'progress' show what a search of the margins brings, with and without mining."
	@echo "So few trials, epochs and runs, of a small network on drawn characters, cannot show which"
	@echo "row is better: docs/results/omniglot.md compares rows. Report: $(DEMO_ROOT)/report.html"

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(IN_PARALLEL)

# The slow tests run one after another: each starts Ray with all cores, and some measure time.
test-all: test
	$(BIN)/python -m pytest -m slow

# As root: hosts in network namespaces, Ray's autoscaler, Slurm. What is missing is named and skipped.
cluster-test: $(VENV)/.installed-dev
	WPM_CLUSTER_TEST=1 $(BIN)/python -m pytest -m slow -rs -v tests/cluster/real

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed
	for name in within_pair_step interrupt folds retrieval_memory table_cost search_stopping; do \
	  echo; echo "== python -m benchmarks.$$name --quick"; \
	  $(BIN)/python -m benchmarks.$$name --quick || exit 1; \
	done

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(DEMO_ROOT) .mypy_cache .ruff_cache .pytest_cache
