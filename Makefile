# Everything a developer types. `make` or `make help` lists it.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

# The first of these that runs; `make PYTHON=/path/to/python install` takes another.
PYTHON ?= $(shell for python in python3.11 python3.12 python3; do \
    if $$python -c "" 2> /dev/null; then echo $$python; break; fi; done)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --constraint constraints.txt
# Where `make start` and `make demo` keep their site, and the port they would like.
INSTANCE ?= instance
PORT ?= 8080
# More arguments for the command behind a target, as in `make test ARGS="-k quota"`.
ARGS ?=

RUN_STAMP := $(VENV)/.installed-run
DEV_STAMP := $(VENV)/.installed-dev

.PHONY: help
help: ## Say what can be done here
	@echo "Usage: make TARGET [ARGS=\"...\"] [PYTHON=python3.12] [VENV=.venv] [PORT=8080]"
	@echo
	@awk -F ":.*## " '/^[a-z-]+:.*## / {printf "  %-13s %s\n", $$1, $$2}' Makefile

# The environment. One stamp for what runs, one for what tests and lints: both are made anew when metadata or pins change.
$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "No Python found. Install Python 3.11 or 3.12 (Debian: apt-get install python3 python3-venv)." >&2; exit 1; }
	@$(PYTHON) scripts/checkpython.py
	@echo "Making $(VENV) with $$($(PYTHON) --version)."
	@$(PYTHON) -m venv $(VENV)

$(RUN_STAMP): $(BIN)/python pyproject.toml constraints.txt
	@$(BIN)/python scripts/checkpython.py
	@echo "Installing Plone and the package into $(VENV): a minute or so."
	@$(PIP) --upgrade pip setuptools
	@$(PIP) --no-build-isolation --editable ".[plone,demo,cli]"
	@touch $@

$(DEV_STAMP): $(BIN)/python pyproject.toml constraints.txt
	@$(BIN)/python scripts/checkpython.py
	@echo "Installing Plone, the package and its tools into $(VENV): a minute or two."
	@$(PIP) --upgrade pip setuptools
	@$(PIP) --no-build-isolation --editable ".[test,dev]"
	@touch $(RUN_STAMP) $@

.PHONY: install
install: $(DEV_STAMP) ## Make the environment in .venv, with all that tests and checks need
	@echo "$(VENV) is ready."

# Some tests start bin/instance, so `make test` builds it once. ZCASYNC_BUILDOUT names a folder that has one already.
BUILDOUT_STAMP := .installed.cfg
BUILDOUT := $(if $(ZCASYNC_BUILDOUT),,$(BUILDOUT_STAMP))

.PHONY: start
start: $(RUN_STAMP) ## Serve a Plone site with the package; made at the first run
	@$(BIN)/python scripts/instance.py --folder $(INSTANCE) --port $(PORT) $(ARGS)

.PHONY: demo
demo: $(RUN_STAMP) ## Import a description of every installed distribution in jobs (ARGS=--exit, ARGS="--exit --kill")
	@$(BIN)/python scripts/demo.py --folder $(INSTANCE)-demo --port $(PORT) $(ARGS)

.PHONY: test
test: $(DEV_STAMP) $(BUILDOUT) ## Run all tests (ARGS="-k quota" for some)
	@$(BIN)/pytest $(ARGS)

.PHONY: test-engine
test-engine: $(DEV_STAMP) ## Run the tests of the engine, without Zope: the quick ones
	@$(BIN)/pytest tests/engine $(ARGS)

.PHONY: model
model: $(DEV_STAMP) ## Drive the engine through random interleavings, in pieces that resume (ARGS="--examples 50000")
	@$(BIN)/python scripts/model.py $(ARGS)

# With SEED the one world of that seed, and all that happens in it.
SEEDS ?= 2000
SEED ?=

.PHONY: simulate
simulate: $(DEV_STAMP) ## Simulate dispatchers, clients, a storage and all that goes wrong there (SEEDS=2000 SEED=17)
	@$(BIN)/python scripts/simulate.py $(if $(SEED),--seed $(SEED),--seeds $(SEEDS)) $(ARGS)

# Its folder is no part of the distribution; it starts the servers that the tests use.
KILLS ?= 100
STORAGE ?= zeo

.PHONY: chaos
chaos: $(DEV_STAMP) ## Kill workers, clients and servers under load, and recount (KILLS=1000 SEED=7 STORAGE=filestorage|zeo|relstorage)
	@PYTHONPATH=.:tests:scripts $(BIN)/python -m chaos --kills $(KILLS) --storage $(STORAGE) $(if $(SEED),--seed $(SEED)) $(ARGS)

# An environment of its own, which sees the packages of the other one: only this wants mutmut.
MUTANTS_STAMP := .venv-mutants/.installed

$(MUTANTS_STAMP): scripts/mutants.txt $(DEV_STAMP)
	@$(BIN)/python -m venv .venv-mutants
	@.venv-mutants/bin/pip install --quiet --no-deps --requirement scripts/mutants.txt
	@there=$$($(BIN)/python -c "import site; print(site.getsitepackages()[0])"); \
	    echo "$$there" > "$$(.venv-mutants/bin/python -c 'import site; print(site.getsitepackages()[0])')/beside.pth"
	@touch $@

.PHONY: mutants
mutants: $(MUTANTS_STAMP) ## See whether tests notice small changes of modules, in pieces that resume (ARGS="retry --share 9")
	@PYTHONPATH=src .venv-mutants/bin/python scripts/mutants.py $(ARGS)

.PHONY: test-browser
test-browser: $(DEV_STAMP) ## Run the tests that drive a browser
	@$(BIN)/pytest tests/browser $(ARGS)

# Its folder is no part of the distribution; it starts the servers that the tests use.
.PHONY: bench
bench: $(DEV_STAMP) ## Measure beside the limits of the storages (ARGS=--quick, --check, --site, "--storage zeo --only rates")
	@PYTHONPATH=.:tests:scripts $(BIN)/python -m benchmarks $(ARGS)

.PHONY: bench-peers
bench-peers: $(DEV_STAMP) ## The same jobs on Huey, RQ, Celery, Dramatiq, Procrastinate and here (ARGS="--only Huey --only zcasync")
	@PYTHONPATH=.:tests:src $(BIN)/python -m benchmarks.peers $(ARGS)

.PHONY: parity
parity: $(DEV_STAMP) $(BUILDOUT) ## Run the tests that prove the features of zc.async, and count these
	@$(BIN)/python scripts/parity.py

.PHONY: lint
lint: $(DEV_STAMP) ## Check style, types of the engine, dependencies and the source distribution
	@$(BIN)/ruff check --output-format concise
	@$(BIN)/ruff format --check
	@$(BIN)/zpretty --check src
	@$(BIN)/mypy
	@rm -rf build && $(BIN)/python -m build --quiet --wheel --no-isolation --outdir build/checked/dist
	@cp -r pyproject.toml src build/checked && $(BIN)/dependencychecker build/checked
	@$(BIN)/check-manifest --no-build-isolation

.PHONY: format
format: $(DEV_STAMP) ## Bring Python, ZCML, XML and templates into shape
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format
	@$(BIN)/zpretty --inplace src

.PHONY: buildout
buildout: $(BUILDOUT_STAMP) ## Build bin/instance, bin/worker and bin/pytest with zc.buildout
	@echo "bin/instance is ready."

.venv-buildout/bin/buildout: constraints.txt
	@$(PYTHON) scripts/checkpython.py
	@$(PYTHON) -m venv .venv-buildout
	@.venv-buildout/bin/pip install --quiet --constraint constraints.txt --upgrade pip setuptools wheel zc.buildout
	@touch $@

$(BUILDOUT_STAMP): .venv-buildout/bin/buildout buildout.cfg versions-6.2.cfg pyproject.toml
	@echo "Building bin/instance and its scripts with zc.buildout: some four minutes, once."
	@.venv-buildout/bin/buildout -N
	@touch $@

# An environment of its own: Sphinx wants an older docutils than Plone. Its requirements are complete, so no others come in.
DOCS_STAMP := .venv-docs/.installed

$(DOCS_STAMP): docs/requirements.txt
	@$(PYTHON) scripts/checkpython.py
	@$(PYTHON) -m venv .venv-docs
	@.venv-docs/bin/pip install --quiet --no-deps --requirement docs/requirements.txt
	@.venv-docs/bin/pip check --quiet
	@touch $@

.PHONY: docs
docs: $(DOCS_STAMP) ## Make HTML of the documentation, in docs/_build; a warning is an error
	@.venv-docs/bin/python -m sphinx --fresh-env --write-all -d docs/_build/doctrees -W --keep-going --quiet docs docs/_build/html
	@echo "See docs/_build/html/index.html."

.PHONY: clean
clean: ## Remove what was made here, but not the sites of `make start` and `make demo`
	@rm -rf $(VENV) .venv-buildout .venv-docs .venv-mutants .installed.cfg bin develop-eggs parts build dist docs/_build htmlcov .coverage .mypy_cache .ruff_cache .pytest_cache src/*.egg-info
	@find src tests scripts benchmarks chaos -name __pycache__ -type d -prune -exec rm -rf {} +
