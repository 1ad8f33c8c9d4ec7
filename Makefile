# Each target sets up the environment it needs, and is quick when that stands: the stamps are newer than what they were made from.
#
#   make demo        the whole pipeline on the embedded models; prints where the report is
#   make test        all tests that need no GPU (`.venv/bin/pytest -m gpu` for the others)
#   make lint        ruff, formatting, mypy strict
#   make bench       CPU benchmarks          make bench-gpu   training speed on a GPU
#   make vllm        vLLM in an environment of its own, .venv-vllm

PYTHON ?= python3
PIP := .venv/bin/python -m pip --disable-pip-version-check --quiet
# Byte-compiling all of torch and transformers takes longer than installing them; Python compiles what is imported.
INSTALL := $(PIP) install --no-compile
# BFCL's checker, compared with ours by the tests. Its own requirements are exact pins against ours and its checker needs none.
BFCL := bfcl-eval==2026.3.23

.PHONY: demo test lint bench bench-gpu vllm
.DELETE_ON_ERROR:

demo: .venv/.runtime
	.venv/bin/distill demo

test: .venv/.dev vllm
	.venv/bin/python -m pytest

lint: .venv/.dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

bench: .venv/.dev vllm
	.venv/bin/python scripts/bench.py

bench-gpu: .venv/.runtime
	.venv/bin/python scripts/bench_gpu.py

vllm: .venv-vllm/.ready

.venv/.runtime: pyproject.toml constraints.txt
	test -x .venv/bin/pip || $(PYTHON) -m venv .venv
	@echo "installing the runtime dependencies into .venv (a few minutes the first time)"
	$(INSTALL) -c constraints.txt torch
	$(INSTALL) -c constraints.txt -e .
	touch $@

.venv/.dev: .venv/.runtime
	@echo "installing the development dependencies into .venv"
	$(INSTALL) -c constraints.txt -e '.[dev]'
	$(INSTALL) --no-deps $(BFCL)
	touch $@

# Where vLLM has no build for the platform the script says so, leaves no stamp, and its tests are skipped.
.venv-vllm/.ready: scripts/setup_vllm.sh docker/vllm-cpu-requirements.txt
	PYTHON=$(PYTHON) scripts/setup_vllm.sh
