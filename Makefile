# Everything needs only Python 3.11 or newer and make: the first target sets up .venv by itself.
PYTHON ?= python3
BIN := .venv/bin
STEPS ?= 4000

.PHONY: demo test lint bench clean

demo: .venv/ready  ## train a character model on Shakespeare's plays, let it write, look at its gradients
	$(BIN)/unrolled data fetch shakespeare
	$(BIN)/unrolled train char shakespeare --steps $(STEPS) --name demo
	$(BIN)/unrolled flow "$$(ls -td runs/demo* | head -n 1)"

test: lint  ## lint, types, tests and coverage
	$(BIN)/python -m pytest --numprocesses auto --cov --cov-report=term-missing:skip-covered

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/ready  ## what is fast and what is not, beside the peers
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv .coverage .mypy_cache .ruff_cache .pytest_cache

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "unrolled needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[all,dev]'
	@touch $@
