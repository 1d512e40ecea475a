# make demo    the main job: draws a data set, trains, evaluates, exports, predicts     make test    the quick tests
# make lint    ruff          make types    mypy          make clean    removes the virtual environments and build leftovers
#
# STACK=addons  TensorFlow 2.15 with tensorflow-addons, in a virtual environment of its own (Python 3.10 or 3.11)
# PYTHON=...    the interpreter; without it the first that fits of those below

STACK ?= default
PYTHON ?= python3 python3.13 python3.12 python3.11 python3.10
OUTPUT ?= demo

ifeq ($(STACK),default)
VENV := .venv
NEWEST := 13
else ifeq ($(STACK),addons)
VENV := .venv-addons
NEWEST := 11
else
$(error STACK is '$(STACK)': expected default or addons)
endif
BIN := $(VENV)/bin

# $(call install,test): the project with the extra `test`, in place, and what it needs
ifeq ($(STACK),default)
install = $(BIN)/python -m pip install --editable '.$(if $(1),[$(1)])'
else
install = $(BIN)/python -m pip install --editable '.[addons$(if $(1),$(comma)$(1))]'
endif
comma := ,

.PHONY: demo test lint types clean

demo: $(VENV)/installed
	$(BIN)/mrcnn demo --output $(OUTPUT)

test: $(VENV)/installed-test
	$(BIN)/pytest -m "not slow"

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .

types: $(VENV)/installed-dev
	$(BIN)/mypy

clean:
	rm -rf .venv .venv-addons build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A half-made environment is removed, so that the next call starts afresh.
$(BIN)/python:
	@for python in $(PYTHON); do \
	  if "$$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, $(NEWEST)))' 2>/dev/null; then \
	    echo "$(VENV): $$($$python --version)"; \
	    "$$python" -m venv $(VENV) && $(BIN)/python -m pip install --quiet --upgrade pip && exit 0; \
	    rm -rf $(VENV); exit 1; \
	  fi; \
	done; \
	echo 'mrcnn-tf with STACK=$(STACK) needs Python 3.10 to 3.$(NEWEST), which is none of: $(PYTHON). Install one, or name it: make PYTHON=/path/to/python3' >&2; \
	exit 1

$(VENV)/installed: $(BIN)/python setup.cfg pyproject.toml
	$(call install,)
	@touch $@

$(VENV)/installed-%: $(BIN)/python setup.cfg pyproject.toml
	$(call install,$*)
	@touch $@
