# `make test` and `make demo` need nothing but Python 3.11+ (and a C++ compiler for speed).
# To choose the interpreter: make test PYTHON=python3.12
# To add pip options, such as an index with CPU-only torch: make test PIP_ARGS="--extra-index-url ..."

PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NATIVE := $(wildcard kernels/sgrt_kernels/native/src/*)
# Python of a machine that is set up already (GPU targets): its own torch is used.
HERE := PYTHONPATH=.:kernels $(PYTHON)

.PHONY: test lint demo pull clients bench bench-peers gpu-test gpu-bench clean

test: lint pull
	SGRT_REQUIRE_MODEL=1 $(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

demo: pull
	$(BIN)/python examples/extract.py

pull: $(STAMP)
	$(BIN)/sgrt pull

# OpenAI's client, instructor, SGLang's frontend … against the server; see tests/clients/__main__.py
clients: pull
	$(BIN)/python -m tests.clients

bench: pull
	$(BIN)/python -m benchmarks.radix
	$(BIN)/python -m benchmarks.step
	$(BIN)/python -m benchmarks.select
	$(BIN)/python -m benchmarks.programs
	$(BIN)/python -m benchmarks.extraction --engines sgrt

bench-peers: pull
	$(BIN)/python -m pip install --quiet -c constraints.txt $(PIP_ARGS) -r benchmarks/requirements.txt
	$(BIN)/python -m benchmarks.extraction
	$(BIN)/python -m benchmarks.select --peer

gpu-test:
	$(PYTHON) -c "import torch, sys; sys.exit(0 if torch.cuda.is_available() else 'no CUDA device')"
	$(PYTHON) setup.py --quiet build_ext --inplace
	$(HERE) -m pytest -o addopts="-ra --strict-markers" -m "not slow"

gpu-bench:
	$(PYTHON) -c "import torch, sys; sys.exit(0 if torch.cuda.is_available() else 'no CUDA device')"
	@echo "benchmarks here: $(notdir $(filter-out %/__init__.py %/common.py,$(wildcard benchmarks/*.py)))"
	$(HERE) -m benchmarks.radix
	$(HERE) -m benchmarks.step

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(STAMP): pyproject.toml setup.py constraints.txt $(NATIVE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt $(PIP_ARGS) -e ".[test]"
	touch $(STAMP)
