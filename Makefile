# make demo   a trained agent and its evaluation on a laptop, from nothing but a package index;  make demo-quick  tiny
# make test   all fast tests;  make test-slow  the slower ones, with a server and Ray;  make lint  ruff, types, twin cells
PYTHON ?= python3
PROFILE ?= laptop
VENV := .venv
BIN := $(VENV)/bin
export TOKENIZERS_PARALLELISM := false

.PHONY: demo demo-quick test test-slow lint assets clean

$(BIN)/.requirements: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(BIN)/.requirements-dev: $(BIN)/.requirements requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

assets: $(BIN)/.requirements
	$(BIN)/python -m ppo_codet5.helpers.assets

demo: assets
	$(BIN)/python -m ppo_codet5.reproduce --profile $(PROFILE)

demo-quick: PROFILE := smoke
demo-quick: demo

test: assets $(BIN)/.requirements-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: assets $(BIN)/.requirements-dev
	$(BIN)/python -m pytest -m slow

lint: $(BIN)/.requirements-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --exclude ppo_codet5/core.py --exclude docs .
	$(BIN)/mypy
	$(BIN)/python tools/sync_notebooks.py --check
	$(BIN)/python tools/update_docs.py --check

clean:
	rm -rf runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
