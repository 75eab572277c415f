.PHONY: help install demo test check chaos bench lock
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
LOCK := uv pip compile --universal --generate-hashes --no-emit-index-url --python-version 3.11 --quiet \
	--no-annotate --custom-compile-command "make lock"

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) ## Install into .venv

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "lowtide needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv \
		|| { echo "$(PYTHON) can't make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv"; rm -rf .venv; exit 1; }
	@echo "installing into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(INSTALLED) ## All four jobs on a million rows, in a temporary folder
	@$(BIN)/lowtide demo

test: $(INSTALLED) ## The whole test suite, on real servers
	$(BIN)/python -m pytest

check: $(INSTALLED) ## What CI runs: format, lint, types, import rules, tests with coverage
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --cov

chaos: $(INSTALLED) ## The fault suite in its long form, about half an hour; CHAOS_SEED=n plays one again
	CHAOS=long $(BIN)/python -m pytest tests/chaos

bench: $(INSTALLED) ## Benchmarks, side by side in one run
	$(BIN)/python -m benchmarks

lock: $(INSTALLED) ## Renew both lock files (needs uv)
	$(LOCK) --all-extras --upgrade pyproject.toml -o requirements.lock
	$(LOCK) --extra build --constraint requirements.lock pyproject.toml -o requirements-worker.lock
