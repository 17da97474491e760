# `make demo` and `make test` set up everything they need: a .venv with the project in it.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow lint completions stubs bench clean

demo: .venv/demo
	$(BIN)/stochx demo -o stochx-out/demo --overwrite

test: .venv/dev
	$(BIN)/python -m pytest -q -n 2 -m "not slow" --durations=15

test-slow: .venv/dev
	$(BIN)/python -m pytest -q -n 2 -m slow --durations=15

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

completions: .venv/demo
	$(BIN)/python -m stochx.cli.completion completions

stubs: .venv/demo
	$(BIN)/python -m stochx.stubs

bench: .venv/dev
	$(BIN)/python -m pip install -q --config-settings editable_mode=compat -e ".[bench]"
	$(BIN)/python benchmarks/explain.py
	$(BIN)/python benchmarks/score.py
	$(BIN)/python benchmarks/attack.py
	$(BIN)/python benchmarks/noise.py
	$(BIN)/python benchmarks/certify.py
	$(BIN)/python benchmarks/distill.py
	$(BIN)/python benchmarks/fewshot.py

.venv/demo: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --config-settings editable_mode=compat -e .
	touch $@

.venv/dev: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --config-settings editable_mode=compat -e ".[dev]"
	touch .venv/demo $@

clean:
	rm -rf .venv stochx-out .mypy_cache .ruff_cache .pytest_cache
