#!/usr/bin/env bash
# Everything that needs a GPU, in parts of a few minutes each:
#   benchmarks/gpu.sh                  runs the parts that have not passed yet
#   benchmarks/gpu.sh build test       runs these parts (again); `bench` is every part whose name begins with bench-
#   benchmarks/gpu.sh acceleration     quality against iterations, hours: trains networks and samples them, only where named
#   PYTHON=/path/to/python RESULTS=folder TORCH_CUDA_ARCH_LIST=9.0 benchmarks/gpu.sh
# Needs torch with CUDA, triton, nvcc, ninja, pybind11, pytest and pytest-benchmark, and no network; compute-sanitizer,
# ncu and diffusers where they are found. What has passed is remembered in build/gpu; delete that folder to start anew. The
# figures of the parts of one build are gathered in one JSON file and one table under benchmarks/results.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
RESULTS=${RESULTS:-benchmarks/results}
PASSED=build/gpu
PARTS=(build test sanitize-memcheck sanitize-racecheck bench-update bench-planes bench-snr bench-chunks
  bench-small bench-noise bench-iteration profile test-tickets sanitize-tickets bench-tickets
  test-cooperative sanitize-cooperative bench-cooperative)
NAMED_ONLY=(acceleration-faces acceleration-photos64 acceleration-photos128 acceleration-photos256)
mkdir -p "$PASSED"

"$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
  { echo "gpu.sh: $PYTHON has no torch that finds a CUDA device; name another with PYTHON="; exit 1; }
# Tools of the Python environment, such as ninja, and of the CUDA toolkit, wherever PATH stands.
PATH="$(dirname "$("$PYTHON" -c 'import sys; print(sys.executable)')"):$PATH:${CUDA_HOME:-/usr/local/cuda}/bin"

build() {
  local found
  found=$("$PYTHON" -c 'import torch; print(".".join(map(str, torch.cuda.get_device_capability())))')
  TDAS_OPS_BUILD=cuda TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$found} "$PYTHON" setup.py -q build_ext --inplace
  "$PYTHON" -c 'import json; from tdas_ops import _extension; m = _extension.load()
assert m is not None, _extension.reason()
print(json.dumps(m.build_info()))'
}

# A machine where GPU tests are skipped does not pass. Those that one GPU cannot run are left out, not skipped.
# Blocks that wait for each other may wait for ever: what has such blocks comes last, and not for longer than this.
PATIENCE=900
tests() {
  timeout "$PATIENCE" "$PYTHON" -m pytest "$1" -q -p no:cacheprovider --durations=5 | tee "$PASSED/test.log"
  grep -Eq '[1-9][0-9]* passed' "$PASSED/test.log" && ! grep -Eq '[0-9]+ skipped' "$PASSED/test.log"
}

sanitize() {
  if ! command -v compute-sanitizer >/dev/null; then
    echo "gpu.sh: $1 is skipped: compute-sanitizer is not found"
    return
  fi
  local tool=$1
  case $1 in tickets | cooperative) tool=memcheck ;; esac
  local checker=(compute-sanitizer --tool "$tool" --target-processes all --error-exitcode 1)
  # What torch tries out on the driver's interface is no error; what our launches return, they report themselves.
  [ "$tool" != memcheck ] || checker+=(--report-api-errors no)
  if ! "${checker[@]}" "$PYTHON" -c 'import torch; torch.ones(1).cuda().cpu()' >"$PASSED/$1.log" 2>&1; then
    echo "gpu.sh: $1 is skipped: compute-sanitizer does not work on this machine; it says, in $PASSED/$1.log:"
    tail -n 3 "$PASSED/$1.log"
    return
  fi
  # Every tensor an allocation of its own, so that no neighbour hides what goes past an end.
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout "$PATIENCE" "${checker[@]}" "$PYTHON" benchmarks/sanitize_cases.py "$1"
}

bench() {
  test -e "$PASSED/test" || { echo "gpu.sh: no figure without passing tests: run the part test first"; return 1; }
  case $1 in
    tickets | cooperative)
      test -e "$PASSED/test-$1" || { echo "gpu.sh: no figure without passing tests: run test-$1 first"; return 1; } ;;
  esac
  if [ "$1" = iteration ]; then
    "$PYTHON" -c 'import diffusers' 2>/dev/null ||
      { echo "gpu.sh: bench-iteration is skipped: diffusers is not installed"; return; }
    "$PYTHON" benchmarks/iteration.py --parts "$PASSED" --out "$RESULTS"
    return
  fi
  "$PYTHON" benchmarks/gpu_bench.py "$1" --parts "$PASSED" --out "$RESULTS"
}

# Quality against iterations on one data set, which benchmarks/acceleration/README.md says how to prepare. Training and
# measuring go on where they were stopped.
acceleration() {
  local folder=build/acceleration network samples=(--batch 100 --samples 2000)
  if [ ! -e "$folder/data/$1.safetensors" ]; then
    echo "gpu.sh: $folder/data/$1.safetensors is missing; benchmarks/acceleration/README.md says how to make it"
    return 1
  fi
  case $1 in
    faces)
      network=(--widths 64 128 256 --batch 128 --steps 100000)
      samples=(--batch 500 --samples 5000) ;;
    photos64) network=(--denoiser --skip --widths 64 128 256 --batch 128 --steps 100000) ;;
    *) network=(--denoiser --skip --widths 64 128 192 256 --batch 64 --steps 50000) ;;
  esac
  local on=(--family ncsnpp --dataset "$1" --data "$folder/data" --device cuda)
  "$PYTHON" -m benchmarks.acceleration.train "${on[@]}" --runs "$folder/gpu" --out "$folder/gpu" "${network[@]}"
  on+=(--weights "$folder/gpu" --results "$folder/gpu")
  "$PYTHON" -m benchmarks.acceleration.evaluate "${on[@]}" "${samples[@]}"
  "$PYTHON" -m benchmarks.acceleration.cost "${on[@]}" --batch 100
}

chosen=()
for name in "$@"; do
  matched=()
  for part in "${PARTS[@]}" "${NAMED_ONLY[@]}"; do
    case $part in "$name" | "$name"-*) matched+=("$part") ;; esac
  done
  [ ${#matched[@]} -gt 0 ] || { echo "gpu.sh: got '$name', expected one of ${PARTS[*]} ${NAMED_ONLY[*]}"; exit 1; }
  chosen+=("${matched[@]}")
done
if [ ${#chosen[@]} -gt 0 ]; then
  for part in "${chosen[@]}"; do rm -f "$PASSED/$part"; done
else
  chosen=("${PARTS[@]}")
fi
for part in "${chosen[@]}"; do
  [ ! -e "$PASSED/$part" ] || { echo "gpu.sh: $part has passed before"; continue; }
  echo "gpu.sh: $part"
  started=$SECONDS
  case $part in
    build) rm -rf "${PASSED:?}"/*; build ;;
    test) tests tests/test_gpu.py ;;
    test-*) tests "tests/test_gpu_${part#test-}.py" ;;
    sanitize-*) sanitize "${part#sanitize-}" ;;
    bench-*) bench "${part#bench-}" ;;
    acceleration-*) acceleration "${part#acceleration-}" ;;
    profile) "$PYTHON" benchmarks/gpu_profile.py --out "$RESULTS" ;;
  esac
  touch "$PASSED/$part"
  echo "gpu.sh: $part passed in $((SECONDS - started)) s"
done
