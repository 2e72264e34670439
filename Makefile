# make demo    compile the reference model `digits` for ONNX and TFLite, run it on files, report to out/demo
# make compress  prune, recover and compile `digits` and `assistant`, with reports to out/digits and out/assistant
# make test    run the test suite: side by side (TEST_JOBS=N), then alone what measures time
# make test-exhaustive  the further variants of what `make test` tries once: other processors, kills, damage of each kind
# make test-all  everything below once, in small where the whole takes long: what .ci/run calls
# make attack  hostile inputs of every kind, from a random seed (SEED=N sets it), to out/attack.json
# make check   lint, types, import contracts
# make train   make the weights of `digits` from scratch, to out/train; each model in examples/ has a train.py
# make systems  compile the reference models and hold each to what it must show, to out/systems.json and docs/systems.md
# make soak    hold a process that runs for long to what it must show, to out/soak.json
# make soak-services  hold the services and the voice assistant to what they must show, to out/soak-services.json
# make peers   compare with other tools, each in an environment of its own (after `make compress`), to out/peers.json
# make portability  verify bundles of `digits` on emulated Arm, other Pythons and runtimes, to out/portability.json
# make gpu     the reference models in full precision on a GPU, to out/gpu.json; GPU_ARGS=--dry-run shows the plan
# make wheel   build the wheel into dist/
# make clean   remove what was built (the environment too)
#
# Each makes the environment it needs. PYTHON names another interpreter, PIP_ARGS another index or constraint, OUT another
# folder than out:
#     make demo PYTHON=python3.12 PIP_ARGS='--index-url URL --constraint FILE'

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
PYTEST_ARGS ?=
ATTACK_ARGS ?=
TRAIN_ARGS ?=
PEERS_ARGS ?=
SYSTEMS_ARGS ?= --docs docs/systems.md
SOAK_ARGS ?=
SOAK_SERVICES_ARGS ?=
PORTABILITY_ARGS ?= --docs docs/portability.md
# A machine with a GPU may have no network: its own Python, which has torch, runs this without an environment.
GPU_PYTHON ?= $(PYTHON)
GPU_ARGS ?=
JOBS ?= 2
TEST_JOBS ?= 2
SEED ?=
OUT ?= out
DIST ?= dist
BIN := $(VENV)/bin
# A test that hangs fails after half an hour, and the others go on.
PYTEST := $(BIN)/python -m pytest --timeout 1800
# What is compiled, compared and checked elsewhere, by recipe. A pruned model's bundles lie in $(OUT) by its recipe's folder.
COMPRESS ?= examples/digits/pruned.toml examples/assistant/pruned.toml
PEERS ?= examples/digits/recipe.toml examples/assistant/recipe.toml
ARM64 ?= examples/digits/arm64.toml
PRUNED = $(wildcard $(foreach recipe,$(COMPRESS),$(OUT)/$(notdir $(patsubst %/,%,$(dir $(recipe))))/*.edgefuse))

.DELETE_ON_ERROR:
.PHONY: demo compress test test-exhaustive test-all attack check train systems soak soak-services peers portability gpu wheel clean

demo: $(VENV)/.compile
	$(BIN)/python examples/digits/demo.py --out $(OUT)/demo

# Hours become minutes from the cache, and a run that was stopped goes on where it was.
compress: $(VENV)/.compile
	set -e; for recipe in $(COMPRESS); do \
	$(BIN)/edgefuse compile $$recipe --out $(OUT)/$$(basename $$(dirname $$recipe)) --jobs $(JOBS); done

# PYTEST_ARGS narrows it: PYTEST_ARGS=tests/cli. A narrow choice may hold nothing that measures time: pytest ends with 5.
test: $(VENV)/.dev
	$(PYTEST) -n $(TEST_JOBS) --dist worksteal -m 'not timing and not exhaustive' --durations=20 $(PYTEST_ARGS)
	$(PYTEST) -m timing $(or $(PYTEST_ARGS),$(TIMING)) || test $$? -eq 5
TIMING = $$(grep -rlE 'mark\.timing' tests --include='test_*.py')

test-exhaustive: $(VENV)/.dev
	$(PYTEST) -n $(TEST_JOBS) --dist worksteal -m exhaustive --durations=20 $(PYTEST_ARGS)

test-all: $(VENV)/.dev
	$(BIN)/python -m tests.targets

# After the attacks, every property test takes examples that no run of `make test` has seen.
attack: $(VENV)/.dev
	set -e; seed=$(or $(SEED),$$($(BIN)/python -c 'import secrets; print(secrets.randbelow(2**32))')); \
	$(BIN)/python -m tests.attack --jobs $(JOBS) --seed $$seed --out $(OUT)/attack.json $(ATTACK_ARGS); \
	$(PYTEST) -n $(TEST_JOBS) --dist worksteal -m hypothesis --hypothesis-profile random --hypothesis-seed $$seed \
	$$(grep -rlw given tests --include='test_*.py')

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# TRAIN_ARGS='--out examples/digits' replaces the weights that are committed.
train: $(VENV)/.compile
	$(BIN)/python examples/digits/train.py --out $(OUT)/train $(TRAIN_ARGS)

# SYSTEMS_ARGS narrows it: SYSTEMS_ARGS='--only digits'. What was compiled before comes from the cache. Ray Serve is of .dev.
systems: $(VENV)/.dev
	$(BIN)/python -m benchmarks.systems --out $(OUT)/systems.json --work $(OUT)/systems --jobs $(JOBS) $(SYSTEMS_ARGS)

# SOAK_ARGS narrows it: SOAK_ARGS='--only swaps --minutes 1'. What was compiled before comes from the cache.
soak: $(VENV)/.compile
	$(BIN)/python -m benchmarks.soak --out $(OUT)/soak.json --work $(OUT)/soak --jobs $(JOBS) $(SOAK_ARGS)

# SOAK_SERVICES_ARGS narrows it: SOAK_SERVICES_ARGS='--only sigterm'. Bundles are exported in float first, without a search.
soak-services: $(VENV)/.dev
	$(BIN)/python -m benchmarks.soak --lines benchmarks.soak_services.lines --out $(OUT)/soak-services.json \
	--work $(OUT)/soak-services $(SOAK_SERVICES_ARGS)

# PEERS_ARGS narrows it: PEERS_ARGS='--items 200 --systems "nncf default"'; PEERS names the recipes of the models.
peers: $(VENV)/.compile
	$(BIN)/python -m benchmarks.peers --out $(OUT)/peers.json --work $(OUT)/peers $(PEERS_ARGS) \
	$(foreach recipe,$(PEERS),--recipe $(recipe)) $(foreach bundle,$(PRUNED),--bundle $(bundle))

# The bundles for Arm are the set that must pass everywhere; those of `make compress` are surveyed where they exist.
portability: $(VENV)/.dev
	test -e $(OUT)/arm64/digits-tflite.edgefuse || $(BIN)/edgefuse compile $(ARM64) --out $(OUT)/arm64
	$(BIN)/python -m benchmarks.portability --recipe $(ARM64) --out $(OUT)/portability.json $(PORTABILITY_ARGS) \
	$$(for bundle in $(OUT)/digits/*.edgefuse $(OUT)/arm64/*.edgefuse; do test ! -e $$bundle || echo --bundle $$bundle; done)

gpu:
	$(GPU_PYTHON) benchmarks/gpu.py --out $(OUT)/gpu.json $(GPU_ARGS)

wheel: $(VENV)/.dev
	$(BIN)/python -m pip wheel $(PIP_ARGS) --no-deps --wheel-dir $(DIST) .

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
