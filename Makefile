SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# Threads that spin while they wait turn shared cores into heaters; one thread a process is fastest at these sizes.
export OMP_WAIT_POLICY := passive
export GOMP_SPINCOUNT := 0
export OMP_NUM_THREADS := 1

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(firstword $(shell command -v python3.11 python3 python))
WORKERS ?= 2

# $(call timed,name,commands): run, then say how long it took
define timed
@echo "== $(1)"; start=$$(date +%s); $(2); echo "== $(1): $$(( $$(date +%s) - start )) s"
endef

.PHONY: help setup demo test format lint types tests examples bench clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1|/' | column -t -s '|'

setup: $(VENV)/.installed-dev  ## create .venv with the package and its development tools

demo: $(VENV)/.installed  ## walk out and back in a remembered world, into demo_output/
	$(BIN)/mosaicmem demo --out demo_output --overwrite

test: format lint types tests examples  ## everything that must hold before a change lands

format: $(VENV)/.installed-dev
	$(call timed,format,$(BIN)/ruff format --check .)

lint: $(VENV)/.installed-dev
	$(call timed,lint,$(BIN)/ruff check .)

types: $(VENV)/.installed-dev
	$(call timed,types,$(BIN)/basedpyright)

tests: $(VENV)/.installed-dev
	$(call timed,tests,$(BIN)/python -m pytest -n $(WORKERS))

examples: $(VENV)/.installed-dev
	$(call timed,examples,shopt -s nullglob; for file in examples/*.py; do echo "-- $$file"; $(BIN)/python "$$file"; done)

bench: $(VENV)/.installed  ## run every benchmark and print its report
	@shopt -s nullglob; for file in benchmarks/*.py; do echo "-- $$file"; $(BIN)/python "$$file"; done

clean:  ## remove what runs leave behind; .venv stays
	rm -rf build dist out demo_output .pytest_cache .ruff_cache .hypothesis
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or newer is needed, $(PYTHON) is {v[0]}.{v[1]}; try: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)

# A stamp is older than the files it was made from after they change, and the next target installs again.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(call timed,install,$(BIN)/python -m pip install -q -c constraints.txt -e .)
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(call timed,install,$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]')
	@touch $(VENV)/.installed $@
