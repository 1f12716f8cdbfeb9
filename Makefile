# `make demo` and `make test` are all that a newcomer needs; `make check` is what CI holds.
.DELETE_ON_ERROR:
.PHONY: install demo test test-all check lock schema clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
WORKERS ?= 2
# One thread each, because the workers already share out the cores.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadscope

# On a terminal pip shows what it is at; in a log that would be hundreds of lines.
QUIET = $(if $(MAKE_TERMOUT),,--quiet)
PIP_INSTALL = $(BIN)/python -m pip install --disable-pip-version-check $(QUIET)

$(INSTALLED): requirements.lock pyproject.toml
	@echo "installing what requirements.lock pins into $(VENV): 7 GB, most of it CUDA libraries;" \
	  "minutes, as the network allows$(if $(QUIET), (pip is silent until it is done))"
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --require-hashes -r requirements.lock
	$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	touch $@

install: $(INSTALLED)  ## make the virtual environment
	@echo "installed; next: source $(BIN)/activate, then make demo"

demo: $(INSTALLED)  ## search, promote, measure and report on the built-in demo set
	$(BIN)/bench search --trials 30 --quick-latency
	@echo "The report:" && $(BIN)/bench report demo

test: $(INSTALLED)  ## the tests that take seconds
	$(PYTEST)

test-all: $(INSTALLED)  ## every test, the slow ones too
	$(PYTEST) -m "slow or not slow"

check: $(INSTALLED)  ## format, lint, types, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MAKE) test

lock:  ## pin every dependency again (needs uv); names, versions and hashes, no addresses
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-annotate --no-header --all-extras \
	  --output-file requirements.lock pyproject.toml requirements.build

schema: $(INSTALLED)  ## write the JSON Schema of the ONNX metadata again, after a change of its types
	$(BIN)/python -m bench.metadata_schema > docs/onnx-metadata.schema.json

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build *.egg-info
