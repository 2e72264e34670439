# make demo    compile the reference model for ONNX and TFLite, run it on files, report to out/demo
# make compress  prune, recover and compile both reference models, with reports to out/digits and out/assistant
# make test    run the test suite
# make attack  hostile inputs of every kind, from a random seed (SEED=N sets it), to out/attack.json
# make check   lint, types, import contracts
# make train   make the weights of the reference model from scratch
# make peers   compare with other tools, each in an environment of its own (after `make compress`), to out/peers.json
# make portability  verify bundles of `digits` on emulated Arm, other Pythons and runtimes, to out/portability.json
# make wheel   build the wheel into dist/
# make clean   remove what was built (the environment too)
#
# Each makes the environment it needs. PYTHON names another interpreter, PIP_ARGS another index or constraint:
#     make demo PYTHON=python3.12 PIP_ARGS='--index-url URL --constraint FILE'

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
PYTEST_ARGS ?=
PEERS_ARGS ?=
JOBS ?= 2
SEED ?=
BIN := $(VENV)/bin

.DELETE_ON_ERROR:
.PHONY: demo compress test attack check train peers portability wheel clean

demo: $(VENV)/.compile
	$(BIN)/python examples/digits/demo.py --out out/demo

# Hours become minutes from the cache, and a run that was stopped goes on where it was.
compress: $(VENV)/.compile
	$(BIN)/edgefuse compile examples/digits/pruned.toml --out out/digits --jobs $(JOBS)
	$(BIN)/edgefuse compile examples/assistant/pruned.toml --out out/assistant --jobs $(JOBS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(PYTEST_ARGS)

attack: $(VENV)/.dev
	$(BIN)/python -m tests.attack --jobs $(JOBS) $(if $(SEED),--seed $(SEED)) --out out/attack.json

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

train: $(VENV)/.compile
	$(BIN)/python examples/digits/train.py

# PEERS_ARGS narrows it: PEERS_ARGS='--items 200 --systems "nncf default"'.
peers: $(VENV)/.compile
	$(BIN)/python -m benchmarks.peers --out out/peers.json $(PEERS_ARGS) \
	$(foreach recipe,$(wildcard examples/*/recipe.toml),--recipe $(recipe)) \
	$(foreach bundle,$(wildcard out/digits/*.edgefuse out/assistant/*.edgefuse),--bundle $(bundle))

# The bundles for Arm are the set that must pass everywhere; those of `make compress` are surveyed where they exist.
portability: $(VENV)/.dev
	test -e out/arm64/digits-tflite.edgefuse || $(BIN)/edgefuse compile examples/digits/arm64.toml --out out/arm64
	$(BIN)/python -m benchmarks.portability --recipe examples/digits/recipe.toml --out out/portability.json \
	--docs docs/portability.md $$(for bundle in out/digits/*.edgefuse out/arm64/*.edgefuse; do \
	test ! -e $$bundle || echo --bundle $$bundle; done)

wheel: $(VENV)/.dev
	$(BIN)/python -m pip wheel $(PIP_ARGS) --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) build dist out *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# What is installed is up to date as long as setup.cfg has not changed since.
$(VENV)/.compile: setup.cfg | $(BIN)/python
	$(BIN)/python -m pip install $(PIP_ARGS) -e '.[compile]'
	touch $@

$(VENV)/.dev: setup.cfg | $(BIN)/python
	$(BIN)/python -m pip install $(PIP_ARGS) -e '.[compile,dev]'
	touch $@ $(VENV)/.compile

# Debian and Ubuntu ship venv without ensurepip: then the pip of the system puts a pip into the environment.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "edgefuse: compiling needs Python 3.11 or \
	newer: got $$($(PYTHON) --version 2>&1). Fix: make PYTHON=/path/to/python3.11." >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || { $(PYTHON) -m venv --clear --without-pip $(VENV) \
	&& $(PYTHON) -m pip --python $(BIN)/python install $(PIP_ARGS) pip; } || { rm -rf $(VENV); \
	echo "edgefuse: cannot make an environment with $(PYTHON). Fix: install its venv and pip." >&2; exit 2; }
