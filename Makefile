# make demo     draw a small data set, then train, evaluate, export and predict
# make test     run the quick tests
# make lint     run ruff
# make types    run mypy
# make docs     build the documentation site in build/site
# make clean    remove the virtual environments and build files
#
# STACK=addons  use TensorFlow 2.15 with tensorflow-addons, in a separate virtual environment (Python 3.10 or 3.11)
# PYTHON=...    the Python interpreter; default: the first suitable one of the list below
# OUTPUT=...    the output directory of `make demo`; default: demo

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
$(error STACK is '$(STACK)': use STACK=default or STACK=addons)
endif
BIN := $(VENV)/bin

# $(call install,test) installs the project in editable mode, with its dependencies and those of the extra `test`.
ifeq ($(STACK),default)
install = $(BIN)/python -m pip install --editable '.$(if $(1),[$(1)])'
else
install = $(BIN)/python -m pip install --editable '.[addons$(if $(1),$(comma)$(1))]'
endif
comma := ,

.PHONY: demo test lint types docs clean

demo: $(VENV)/installed
	$(BIN)/mrcnn demo --output $(OUTPUT)

test: $(VENV)/installed-test
	$(BIN)/pytest -m "not slow"

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .

types: $(VENV)/installed-dev
	$(BIN)/mypy

docs: export NO_MKDOCS_2_WARNING = 1
docs: $(VENV)/installed-docs
	$(BIN)/mkdocs build --strict --config-file docs/site/mkdocs.yml
	@echo 'Open build/site/index.html. To search as well: $(BIN)/python -m http.server --directory build/site'

clean:
	rm -rf .venv .venv-addons build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An incomplete environment is removed, so that the next call starts from scratch.
$(BIN)/python:
	@for python in $(PYTHON); do \
	  if "$$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, $(NEWEST)))' 2>/dev/null; then \
	    echo "$(VENV): $$($$python --version)"; \
	    "$$python" -m venv $(VENV) && $(BIN)/python -m pip install --quiet --upgrade pip && exit 0; \
	    rm -rf $(VENV); exit 1; \
	  fi; \
	done; \
	echo 'STACK=$(STACK) needs Python 3.10 to 3.$(NEWEST), but none of these is one: $(PYTHON). Install it, or give its path: make PYTHON=/path/to/python3' >&2; \
	exit 1

$(VENV)/installed: $(BIN)/python setup.cfg pyproject.toml
	$(call install,)
	@touch $@

$(VENV)/installed-%: $(BIN)/python setup.cfg pyproject.toml
	$(call install,$*)
	@touch $@
