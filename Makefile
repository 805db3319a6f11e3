# make demo   a trained agent and its evaluation on a laptop, from nothing but a package index;  make demo-quick  tiny
# make demo PROFILE=coder ARGS="-p problems=mbpp.jsonl"   another profile, and further arguments of reproduce
# make test   all fast tests;  make test-slow  the slower ones, with a server and Ray;  make lint  ruff, types, twin cells
# make test-other-python   the fast tests that need no model, on Python 3.13
PYTHON ?= python3
PROFILE ?= laptop
VENV := .venv
BIN := $(VENV)/bin
export TOKENIZERS_PARALLELISM := false

# The fast tests that need no model, and what they need, on the newest Python that the metadata allows.
OTHER_PYTHON ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/3.13.*/bin/python) python3.13)
NO_MODEL := replies sandbox sandbox_hostile sandbox_judging sandbox_property problems scoring statistics rooms starter sync
NO_MODEL_NEEDS := filelock|huggingface_hub|hypothesis|matplotlib|nbformat|numpy|packaging|pytest|pytest-xdist|PyYAML|scipy|statsmodels|tqdm

.PHONY: demo demo-quick test test-slow test-other-python lint assets clean

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
	$(BIN)/python -m ppo_codet5.reproduce --profile $(PROFILE) $(ARGS)

demo-quick: PROFILE := smoke
demo-quick: demo

test: assets $(BIN)/.requirements-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: assets $(BIN)/.requirements-dev
	$(BIN)/python -m pytest -m slow

test-other-python:
	$(OTHER_PYTHON) -m venv .venv-other
	.venv-other/bin/python -m pip install --quiet --disable-pip-version-check \
		$$(grep -hE '^($(NO_MODEL_NEEDS))==' requirements.txt requirements-dev.txt)
	.venv-other/bin/python -m pytest -n 2 -m "not slow" $(NO_MODEL:%=tests/test_%.py)

lint: $(BIN)/.requirements-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --exclude ppo_codet5/core.py --exclude docs .
	$(BIN)/mypy
	$(BIN)/python tools/sync_notebooks.py --check
	$(BIN)/python tools/update_docs.py --check

clean:
	rm -rf runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
