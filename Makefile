# make demo   from nothing to a trained segmenter and a report, on the CPU
# make test   what a change must pass (also in .ci/run)

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo check test test-slow coverage mutation wheel clean
# What `make coverage` runs, and the module that `make mutation` changes: all of them by default.
TESTS ?= tests
MUTATE ?=

help:
	@echo "make install    virtual environment in $(VENV) with everything in it"
	@echo "make demo       install, then the whole way through on generated data"
	@echo "make check      ruff, mypy, import rules"
	@echo "make test       make check, then the tests (4 to 6 minutes on 2 cores)"
	@echo "make test-slow  the tests that take minutes each"
	@echo "make coverage   the tests again, with the share of lines and branches they reach; fails below 90 % of lines"
	@echo "make mutation   small faults put into the code one by one: which ones does no test notice? (hours)"
	@echo "make wheel      dist/*.whl"
	@echo "make clean      remove $(VENV), dist and caches"

install: $(STAMP)

# Runs once, and again when the requirements change. The tested versions keep pip from searching.
$(STAMP): pyproject.toml requirements/tested.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements/tested.txt -e '.[offline,dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/fastsynth demo

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# One thread in each of the two workers: more threads than cores make every test slower. A file's tests stay together, so
# that what they share is made once.
test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-slow: $(STAMP)
	OMP_NUM_THREADS=2 $(BIN)/python -m pytest -m slow --timeout 3600

# coverage's own threshold mixes lines and branches; ours is one of lines.
coverage: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TESTS) -n 2 -m "not slow" --cov --cov-branch --cov-report=term:skip-covered --cov-report=json:.coverage.json
	$(BIN)/python tests/line_coverage.py .coverage.json 90

# One process of tests at a time: they are started in forks, which share what is loaded. MUTATE=fastsynth.data.split*
mutation: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/mutmut run --max-children 1 $(MUTATE)
	$(BIN)/mutmut results

wheel: $(STAMP)
	$(BIN)/python -m hatchling build -t wheel

clean:
	rm -rf $(VENV) dist mutants .coverage .coverage.json .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
