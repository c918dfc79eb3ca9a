# `make demo` and `make test` need only Python and make; everything else goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint torture clean

demo: $(VENV)/.installed
	$(BIN)/samfeat demo

test: $(VENV)/.installed-dev lint
	$(BIN)/python -m pytest --durations=10

# Some 15 minutes on any machine (a slow one tries less): kills, faults, bad files, nothing silent;
# writes docs/reliability.md. Then the tests of minutes, which `make test` leaves out.
torture: $(VENV)/.installed-dev
	$(BIN)/python tests/torture/run.py
	$(BIN)/python -m pytest -m torture

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --upgrade pip
	$(BIN)/pip install -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install -e .[dev]
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
