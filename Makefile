# What you do on a working day; CI runs the same. Everything lives in .venv, made on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Processes of the tests; each takes about 1.3 GB of memory.
WORKERS ?= 2
IN_PARALLEL := --numprocesses $(WORKERS) --dist worksteal
DEMO_ROOT ?= demo-runs
DEMO := --run-root $(DEMO_ROOT) --rows contrastive contrastive+wpm

.PHONY: help demo test test-all check bench format clean
.DEFAULT_GOAL := help

help:
	@echo "make demo      search two rows, retrain and test the best, print the table (6 minutes)"
	@echo "make test      run the tests that need no Ray, in 2 processes (WORKERS=8 for 8)"
	@echo "make test-all  run all tests, with Ray, killed processes and full disks"
	@echo "make check     check the code with ruff and strict mypy"
	@echo "make format    let ruff format and fix the code"
	@echo "make bench     run the benchmarks in their short forms on this machine (5 minutes)"
	@echo "make clean     delete .venv, the demo's runs and the caches of the tools"

$(VENV)/.installed: requirements.txt
	$(PYTHON) -c 'import sys; assert (3, 11, 4) <= sys.version_info[:3] < (3, 14), "needs Python 3.11.4 to 3.13, set PYTHON=..."'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python launch.py $(DEMO) --trials 5
	$(BIN)/python launch.py $(DEMO) --best-only --runs 2
	$(BIN)/python -m analysis.rank_trials --run-root $(DEMO_ROOT) --dataset glyphs
	$(BIN)/python -m analysis.table --run-root $(DEMO_ROOT) --dataset glyphs

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(IN_PARALLEL)

# The slow tests run one after another: each starts Ray with all cores, and some measure time.
test-all: test
	$(BIN)/python -m pytest -m slow

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed
	for name in within_pair_step interrupt folds retrieval_memory table_cost search_halving; do \
	  echo; echo "== python -m benchmarks.$$name --quick"; \
	  $(BIN)/python -m benchmarks.$$name --quick || exit 1; \
	done

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(DEMO_ROOT) .mypy_cache .ruff_cache .pytest_cache
