# Two commands from nothing: `make quickstart` and `make test`. Each makes a virtual environment in
# .venv, installs what it needs, and runs; a second call installs nothing.
#
#   make test PYTHON=python3.12
#   make quickstart TORCH_INDEX=https://download.pytorch.org/whl/cpu    # no GPU: 1 GB instead of 6
PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
OPTIONS ?=
# Test files share the cores; one thread each, because their tensors are small.
PYTEST_OPTIONS ?= -n auto --dist loadfile

BIN := $(VENV)/bin
METADATA := setup.py detectron2_lite/pyproject.toml vis_metrics/pyproject.toml

.PHONY: help install quickstart test lint
help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -6

install: $(VENV)/.installed

quickstart: $(VENV)/.installed
	$(BIN)/vis train --config-file configs/quickstart.yaml --resume $(OPTIONS)

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_OPTIONS) $(OPTIONS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

$(BIN)/python:
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	    echo "no virtual environment: on Debian and Ubuntu, apt install python3-venv first" >&2; exit 2; }

$(VENV)/.installed: requirements.txt $(METADATA) | $(BIN)/python
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install torch torchvision --index-url $(TORCH_INDEX))
	$(BIN)/python -m pip install -r requirements.txt
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(BIN)/python -m pip install -r requirements-dev.txt
	touch $@
