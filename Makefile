# Two commands are enough on a fresh machine: `make serve` and `make test`.
# Each sets up everything it needs in $(VENV) first.

SHELL := /bin/bash
PYTHON ?= python3.11
VENV ?= .venv
PORT ?= 8000
CONFIG ?= deployments/configs/demo.yaml
# The engine build to install: cpu or cuda.
EXTRA ?= cpu

# Where wheels come from. WHEELS is a folder or page with wheels (uv does not read
# pip's own find-links, so it is passed on); without one, uv fetches PyTorch's CPU
# build from PyTorch's own index (TORCH_BACKEND).
WHEELS ?= $(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null)
TORCH_BACKEND ?= $(if $(filter cpu,$(EXTRA)),cpu,auto)
WHEEL_FLAGS = $(if $(WHEELS),--find-links $(WHEELS),--torch-backend $(TORCH_BACKEND))

BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(EXTRA)

.PHONY: serve test test-long check bench frontier frontier-gpu clean setup
.DEFAULT_GOAL := help

help:
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: $(READY) ## virtual environment with everything in it

$(READY): pyproject.toml cpu-overrides.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v[:2] <= (3, 12) else "dspark needs Python 3.11 or 3.12, found %d.%d; set PYTHON=" % v[:2])'
	@echo "== setting up $(VENV): some 3 GB, minutes on a first run"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.5'
	$(BIN)/uv pip install --python $(BIN)/python $(WHEEL_FLAGS) \
		$(if $(filter cpu,$(EXTRA)),--override cpu-overrides.txt) --editable '.[$(EXTRA),test,observability,tracing,plots]'
	@touch $@

serve: setup ## serve the bundled demo on 127.0.0.1:$(PORT)
	@$(BIN)/dspark serve --config $(CONFIG) --port $(PORT)

# Most tests share the cores; one with an engine wants all of them.
test: setup ## unit and integration tests
	$(BIN)/python -m pytest -m "not long and not alone" --numprocesses auto --maxprocesses 8 \
		--durations 20
	$(BIN)/python -m pytest -m "not long and alone" --durations 40 tests/integration tests/gpu

test-long: setup ## soak, chaos, two Ray nodes, and what else takes long
	$(BIN)/python -m pytest -m long

check: setup ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup ## measure this machine: parts of a step, then arms side by side (half an hour)
	$(BIN)/dspark measure
	$(BIN)/dspark bench --models off control split colocated --output bench

# The demo's curves and the peers', a round of all of them after the other; goes on where it
# stopped. In pieces: fewer ROUNDS, POINTS (clients), OPEN loads, MODELS or PEERS, more later. DFlash
# is measured where models/demo-dflash has been trained: it is not bundled.
FRONTIER ?= profiles/demo-frontier
ROUNDS ?= 5
POINTS ?= 1 2 4 8 16 32 64
OPEN ?= poisson:0.25 poisson:1
MODELS ?= off colocated split mtp eagle3 $(if $(wildcard models/demo-dflash/config.json),dflash)
PEERS ?= vllm vllm-ngram ray-serve-llm
# A small model of the target's vocabulary, for vLLM's own draft-model speculation.
DRAFT_MODEL ?=
frontier: setup ## the demo's throughput-latency frontiers, hours; the same command resumes
	@status=0; for round in $$(seq $(ROUNDS)); do \
		$(BIN)/dspark bench --config deployments/configs/frontier.yaml --apart \
			$(if $(MODELS),--models $(MODELS),--without-dspark) \
			--policies colocated=fixed:3,fixed:5,fixed:7,local,causal split=local,causal \
			mtp=fixed:1 eagle3=fixed:3,fixed:5,fixed:7 dflash=fixed:3,fixed:5,fixed:7 \
			$(if $(PEERS)$(DRAFT_MODEL),--peers $(PEERS)) \
			$(if $(DRAFT_MODEL),vllm-draft-model --draft-model $(DRAFT_MODEL)) \
			--concurrency $(POINTS) $(if $(OPEN),--open $(OPEN)) \
			--rounds $$round --reference off 'mtp fixed 1' --output $(FRONTIER) \
		|| { status=$$?; [ $$status -lt 128 ] || exit $$status; }; \
	done; exit $$status

frontier-gpu: setup ## the same of Qwen3 4B, with EXTRA=cuda on two Hopper GPUs (not run yet)
	$(BIN)/dspark bench --config deployments/configs/frontier-gpu.yaml --apart \
		--policies fixed:7 causal --peers vllm vllm-ngram --concurrency 1 2 4 8 16 \
		--max-tokens 256 --divergence 60 --rounds $(ROUNDS) --output profiles/gpu-frontier

clean: ## remove the environment and every cache
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
