# `make demo` and `make test` set up everything they need: a .venv with the project in it. `TORCH=cpu` takes PyTorch
# without CUDA, a tenth of the size.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install -q --no-compile
EDITABLE := --config-settings editable_mode=compat
LOCK = build/uv/bin/uv pip compile -q --universal --generate-hashes --no-annotate --python-version 3.11 \
  --custom-compile-command "make lock" $(UPGRADE)
LOCKED := --require-hashes --no-deps --no-build-isolation
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist worksteal --durations=15
CPU_INDEX := https://download.pytorch.org/whl/cpu

.PHONY: demo test test-slow torture lint dist completions stubs reference pictures docs bench lock audit advisories clean

demo: .venv/demo
	$(BIN)/stochx demo -o stochx-out/demo --overwrite

test: .venv/dev
	$(PYTEST) -m "not slow"

test-slow: .venv/dev
	$(PYTEST) -m slow

# Hours; goes on where it was interrupted, and writes docs/reliability.md at the end.
torture: .venv/dev
	cd tests && ../$(BIN)/python -m torture

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

dist: .venv/dev
	rm -rf dist
	$(BIN)/python -m build --quiet --no-isolation
	$(BIN)/twine check --strict dist/*

completions: .venv/demo
	$(BIN)/python -m stochx.cli.completion completions

stubs: .venv/demo
	$(BIN)/python -m stochx.stubs

reference: .venv/demo
	$(BIN)/python docs/reference.py

pictures: .venv/demo
	$(BIN)/python docs/pictures.py

# Every page anew, because Sphinx says nothing of the faults of pages that it built before.
docs: build/manual/done
	build/manual/bin/python -m sphinx -q -aE -W --keep-going -b html docs build/docs
	@echo "open build/docs/index.html"

bench: .venv/dev
	$(INSTALL) $(EDITABLE) -e ".[bench]"
	$(BIN)/python benchmarks/explain.py
	$(BIN)/python benchmarks/score.py
	$(BIN)/python benchmarks/attack.py
	$(BIN)/python benchmarks/noise.py
	$(BIN)/python benchmarks/certify.py
	$(BIN)/python benchmarks/distill.py
	$(BIN)/python benchmarks/fewshot.py
	$(BIN)/python benchmarks/resume.py

.venv/demo: pyproject.toml
	$(VENV)
	$(INSTALL) $(EDITABLE) -e .
	touch $@

.venv/dev: pyproject.toml requirements/dev.txt
	$(VENV)
	$(if $(filter cpu,$(TORCH)),$(INSTALL) $(EDITABLE) -e ".[dev]",$(INSTALL_LOCKED))
	touch .venv/demo $@

# The manual is built without torch, so that it has an environment of its own.
build/manual/done: requirements/docs.txt
	$(PYTHON) -m venv build/manual
	build/manual/bin/python -m pip install -q --require-hashes --no-deps -r requirements/docs.txt
	touch $@

# `make lock` takes up what pyproject.toml asks for, and `make lock UPGRADE=--upgrade` the newest versions.
lock: build/uv/bin/uv
	$(LOCK) pyproject.toml --extra dev -o requirements/dev.txt
	$(PYTHON) -c "$(DOCS)" | $(LOCK) - -o requirements/docs.txt

build/uv/bin/uv:
	$(PYTHON) -m venv build/uv
	build/uv/bin/python -m pip install -q uv

define DOCS
import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['docs'], sep='\n')
endef

# What is installed is what the lock names, byte for byte; with `TORCH=cpu` it only fits together. This asks no network.
audit: .venv/dev
	$(BIN)/python -m pip check
	$(if $(filter cpu,$(TORCH)),,$(BIN)/python requirements/audit.py)

# Vulnerabilities that are known of what the locks name. This asks the index; where it does not answer, it fails.
advisories:
	$(PYTHON) -m venv build/advisories
	build/advisories/bin/python -m pip install -q pip-audit
	build/advisories/bin/pip-audit --strict --require-hashes --disable-pip -r requirements/dev.txt
	build/advisories/bin/pip-audit --strict --require-hashes --disable-pip -r requirements/docs.txt

# setuptools comes first, as it builds what has no wheel, and the project itself.
define INSTALL_LOCKED
sed -n '/^setuptools==/,/[^\\]$$/p' requirements/dev.txt > .venv/setuptools.txt
$(INSTALL) $(LOCKED) -r .venv/setuptools.txt
$(INSTALL) $(LOCKED) -r requirements/dev.txt
$(INSTALL) --no-deps --no-build-isolation $(EDITABLE) -e .
endef

define VENV
test -x $(BIN)/python || $(PYTHON) -m venv .venv
$(if $(filter cpu,$(TORCH)),$(INSTALL) --index-url $(CPU_INDEX) torch torchvision)
endef

clean:
	rm -rf .venv build dist stochx-out .mypy_cache .ruff_cache .pytest_cache
