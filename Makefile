# What there is to run here. `make` by itself lists it.
#
#   make test PYTHON=python3.13        another Python, which remakes the environment
#   make test ARGS="-k server -x"      arguments for the program that a target runs
#   make test ARGS="-m slow"           the slow ones, which otherwise are left out
#   make bench ARGS="drain"            one of the benchmarks; ARGS="--help" lists them
#   make chaos ARGS="--seconds 1200 --seed 7 --mode logical"

PYTHON ?= python3
ARGS ?=

# Tests wait more than they compute: three for each processor, each with a server of its own.
WORKERS ?= $(shell python3 -c 'import os; print(3 * (os.cpu_count() or 1))' 2>/dev/null || echo 6)

# Named after the Python that made it: another one means another environment.
BIN := .venv/bin
STAMP := .venv/.made-by-$(notdir $(PYTHON))

.DEFAULT_GOAL := help
.PHONY: help demo test check matrix chaos bench clean

help: ## List the targets
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|' 2>/dev/null \
		|| sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1: \2/p' $(MAKEFILE_LIST)

demo: $(STAMP) ## Run the demonstration, with a PostgreSQL server of its own
	@$(BIN)/pgcdc-outbox demo $(ARGS)

test: $(STAMP) ## Run every test but the slow ones, on the newest PostgreSQL
	@$(BIN)/python -m pytest -n $(WORKERS) -m "not slow" $(ARGS)

check: $(STAMP) ## Check style, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

matrix: $(STAMP) ## Run the tests that need a server on every supported PostgreSQL
	@$(BIN)/python -m tests.matrix $(ARGS)

chaos: $(STAMP) ## Break everything at random for a minute, and account for every job
	@$(BIN)/python -m tests.faults.chaos $(ARGS)

bench: $(STAMP) ## Measure, against what there is to measure against (half an hour)
	@$(BIN)/python -m benchmarks $(ARGS)

clean: ## Remove everything that was made here
	rm -rf .venv benchmarks/compare/.venv .servers .demo .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { \
		echo "There is no $(PYTHON) here. Install Python 3.11 or newer, or name it: make PYTHON=python3.12"; \
		exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is $$($(PYTHON) --version 2>&1), and 3.11 is needed. Name a newer one: make PYTHON=python3.12"; \
		exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv"; \
		exit 1; }
	@echo "Making .venv, once; it takes about a minute."
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
