#!/usr/bin/env bash
# Everything that needs a GPU, in parts of a few minutes each:
#   benchmarks/gpu.sh                  runs the parts that have not passed yet
#   benchmarks/gpu.sh build test       runs these parts (again)
#   PYTHON=/path/to/python RESULTS=folder TORCH_CUDA_ARCH_LIST=9.0 benchmarks/gpu.sh
# Parts: build, test, sanitize, bench. Needs torch with CUDA, nvcc, ninja, pybind11, pytest and pytest-benchmark, and no
# network. What has passed is remembered in build/gpu; delete that folder to start anew.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
RESULTS=${RESULTS:-benchmarks/results}
PASSED=build/gpu
mkdir -p "$PASSED"

"$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
  { echo "gpu.sh: $PYTHON has no torch that finds a CUDA device; name another with PYTHON="; exit 1; }

build() {
  local found
  found=$("$PYTHON" -c 'import torch; print(".".join(map(str, torch.cuda.get_device_capability())))')
  TDAS_OPS_BUILD=cuda TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$found} "$PYTHON" setup.py -q build_ext --inplace
  "$PYTHON" -c 'import json; from tdas_ops import _extension; m = _extension.load()
assert m is not None, _extension.reason()
print(json.dumps(m.build_info()))'
}

# The marker is asked for, so a machine where every GPU test is skipped does not pass.
tests() {
  "$PYTHON" -m pytest tests -m gpu -p no:cacheprovider | tee "$PASSED/test.log"
  grep -Eq '[1-9][0-9]* passed' "$PASSED/test.log" && ! grep -Eq '[0-9]+ skipped' "$PASSED/test.log"
}

sanitize() {
  if ! command -v compute-sanitizer >/dev/null; then
    echo "gpu.sh: compute-sanitizer is not found; skipped"
    return
  fi
  local tool
  for tool in memcheck racecheck; do
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$tool" --error-exitcode 1 \
      "$PYTHON" benchmarks/sanitize_cases.py
  done
}

bench() {
  test -e "$PASSED/test" || { echo "gpu.sh: no figure without passing tests: run the part test first"; return 1; }
  "$PYTHON" benchmarks/gpu_bench.py --out "$RESULTS"
}

if [ $# -gt 0 ]; then
  for part in "$@"; do rm -f "$PASSED/$part"; done
  parts=("$@")
else
  parts=(build test sanitize bench)
fi
for part in "${parts[@]}"; do
  [ ! -e "$PASSED/$part" ] || { echo "gpu.sh: $part has passed before"; continue; }
  echo "gpu.sh: $part"
  case $part in
    build) rm -f "$PASSED"/{test,sanitize,bench}; build ;;
    test) tests ;;
    sanitize) sanitize ;;
    bench) bench ;;
    *) echo "gpu.sh: '$part' is not a part; expected build, test, sanitize or bench"; exit 1 ;;
  esac
  touch "$PASSED/$part"
done
