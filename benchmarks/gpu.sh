#!/usr/bin/env bash
# Everything that needs a GPU.
#   benchmarks/gpu.sh first [SECONDS]                  proves and measures every kernel, in 470 seconds at most
#   benchmarks/gpu.sh again [SECONDS] STAGE|TEST...    only these stages, in 230 seconds at most; a TEST is one of pytest's, for the
#                                                      stage tests: tests/kernels/gpu/test_gpu_dispatch.py::test_opcheck
#   benchmarks/gpu.sh build                            compiles the extension in place
#   benchmarks/gpu.sh chunks|iteration                 the long parts: scratch of the passes, whole iterations; kept row by
#                                                      row, an interrupted one goes on
#   benchmarks/gpu.sh acceleration[-DATA]              quality against iterations, hours: trains networks and samples them
# Stages have limits (LIMIT below; together 470 s); one that fails, hangs or runs out of time stops no other, and every row is
# kept the moment it is known. `first` and `again` begin their files anew. Environment: PYTHON (python3), RESULTS
# (benchmarks/results; a few files of less than 16 MB), DEVICE=cpu (rehearses without a GPU), TDAS_OPS_COMMIT (names the commit of
# a tree without .git). Needs torch and pytest, no network; the extension comes from `make gpu-wheel` (build/gpu-wheel), from
# tdas_ops, or is built here, which takes minutes and needs nvcc, ninja and pybind11. Uses compute-sanitizer and ncu where they
# are found.
set -uo pipefail
SECONDS=0
export DEVICE=${DEVICE:-cuda}
[[ ${RESULTS:=benchmarks/results} = /* ]] || RESULTS=$PWD/$RESULTS
cd "$(dirname "$0")/.."

STAGES=(environment smoke repeat times turns tests memcheck racecheck counters compiled small)
# Seconds. The groups of smoke run side by side, and memcheck and racecheck.
declare -A LIMIT=([environment]=30 [smoke]=40 [repeat]=20 [times]=40 [turns]=70 [tests]=95 [memcheck]=70 [racecheck]=70
  [counters]=50 [compiled]=30 [small]=20 [table]=5)
BUILD=170 # where there is no extension: what this takes, later stages lack
PARTS=(build chunks iteration)
DATA=(faces photos64 photos128 photos256)

say() { echo "gpu.sh $SECONDS s: $*"; }
usage() { echo "gpu.sh: got '$1', expected first [SECONDS], again [SECONDS] STAGE..., ${PARTS[*]} or acceleration; stages: ${STAGES[*]}"; }
mode=${1:-}
case $mode in
  first) total=470 ;;
  again) total=230 ;;
  build | chunks | iteration | acceleration | acceleration-*) ;;
  *)
    usage "$mode"
    exit 1
    ;;
esac

PYTHON=${PYTHON:-python3}
# Tools of the Python environment, such as ninja, and of the CUDA toolkit, wherever PATH stands.
if ! seen=$(timeout 60 "$PYTHON" -c 'import os, sys, sysconfig, torch
print(torch.cuda.is_available(), sysconfig.get_config_var("EXT_SUFFIX"), os.path.dirname(sys.executable))' 2>/dev/null); then
  echo "gpu.sh: PYTHON: got '$PYTHON', expected a Python with torch"
  exit 1
fi
read -r cuda suffix here <<<"$seen"
PATH="$here:$PATH:${CUDA_HOME:-/usr/local/cuda}/bin:/usr/local/cuda/compute-sanitizer"
for found in /opt/nvidia/nsight-compute/*/; do PATH=$PATH:${found%/}; done
export PATH PYTHON PYTHONUNBUFFERED=1
if [ "$DEVICE" != cuda ] && [ "$DEVICE" != cpu ]; then
  echo "gpu.sh: DEVICE: got '$DEVICE', expected cuda or cpu"
  exit 1
fi
if [ "$DEVICE" = cuda ] && [ "$cuda" != True ]; then
  echo "gpu.sh: DEVICE: got 'cuda', but torch finds no CUDA device; DEVICE=cpu rehearses without one"
  exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$work/triton}
if ! mkdir -p "$RESULTS" 2>/dev/null || ! touch "$RESULTS/.gpu" 2>/dev/null; then
  say "RESULTS: got '$RESULTS', expected a folder that can be written; what is printed is all that remains"
  RESULTS=$work
fi
rm -f "$RESULTS/.gpu"
carried=build/gpu-wheel
if [ -z "${TDAS_OPS_COMMIT:-}" ]; then
  if [ -e .git ]; then TDAS_OPS_COMMIT=$(git rev-parse --short=12 HEAD); else TDAS_OPS_COMMIT=$(cat "$carried/commit"); fi 2>/dev/null
fi
export TDAS_OPS_COMMIT=${TDAS_OPS_COMMIT:-}

build() {
  local arch
  command -v nvcc >/dev/null || { echo "nvcc is not found: the extension can come from make gpu-wheel"; return 1; }
  arch=$("$PYTHON" -c 'import torch; print(".".join(map(str, torch.cuda.get_device_capability())))') || return 1
  TDAS_OPS_BUILD=cuda TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$arch} "$PYTHON" setup.py -q build_ext --inplace
}

# The long parts

# Quality against iterations on one data set, which experiments/acceleration/README.md says how to prepare. Training and
# measuring go on where they were stopped.
acceleration() {
  local folder=build/acceleration network samples=(--batch 100 --samples 2000)
  if [ ! -e "$folder/data/$1.safetensors" ]; then
    echo "gpu.sh: $folder/data/$1.safetensors is missing; experiments/acceleration/README.md says how to make it"
    return 1
  fi
  case $1 in
    faces)
      network=(--widths 64 128 256 --batch 128 --steps 100000)
      samples=(--batch 500 --samples 5000)
      ;;
    photos64) network=(--denoiser --skip --widths 64 128 256 --batch 128 --steps 100000) ;;
    *) network=(--denoiser --skip --widths 64 128 192 256 --batch 64 --steps 50000) ;;
  esac
  local on=(--family ncsnpp --dataset "$1" --data "$folder/data" --device "$DEVICE")
  "$PYTHON" -m experiments.acceleration.train "${on[@]}" --runs "$folder/gpu" --out "$folder/gpu" "${network[@]}" || return
  on+=(--weights "$folder/gpu" --results "$folder/gpu")
  "$PYTHON" -m experiments.acceleration.evaluate "${on[@]}" "${samples[@]}" || return
  "$PYTHON" -m experiments.acceleration.cost "${on[@]}" --batch 100
}

long() {
  local status=0 name data=()
  export GPU_ROWS=$RESULTS/gpu-parts.jsonl GPU_STAGE=$1
  case $1 in
    build) build || status=1 ;;
    chunks) "$PYTHON" benchmarks/gpu_times.py chunks || status=1 ;;
    iteration) "$PYTHON" benchmarks/iteration.py || status=1 ;;
    acceleration) data=("${DATA[@]}") ;;
    acceleration-*)
      [[ " ${DATA[*]} " = *" ${1#*-} "* ]] || { echo "gpu.sh: got '$1', expected acceleration-NAME of ${DATA[*]}"; return 1; }
      data=("${1#*-}")
      ;;
  esac
  for name in ${data[@]+"${data[@]}"}; do acceleration "$name" || status=1; done
  return $status
}

main=$carried/main/_C$suffix
if [ "$mode" != first ] && [ "$mode" != again ]; then
  # In place: not every one of these programs looks elsewhere.
  [ "$mode" = build ] || [ -e "tdas_ops/_C$suffix" ] || [ ! -e "$main" ] || cp "$main" "$carried/main/libtdas_ops.so" tdas_ops/
  status=0
  for part in "$@"; do
    say "$part"
    long "$part" || status=1
  done
  exit $status
fi

# The stages

shift
if [[ ${1:-} =~ ^[0-9]+$ ]]; then
  total=$1
  shift
fi
# More time than all limits together, as a slow machine needs for a rehearsal, is divided like them.
if [ "$total" -gt 470 ]; then
  for name in "${!LIMIT[@]}"; do LIMIT[$name]=$((LIMIT[$name] * total / 470)); done
fi
chosen=() tests=() failures=0
for name in "$@"; do
  case $name in
    *tests/* | *::*) tests+=("$name") ;;
    *)
      if [[ " ${STAGES[*]} " = *" $name "* ]]; then chosen+=("$name"); else
        usage "$name"
        failures=1
      fi
      ;;
  esac
done
[ ${#tests[@]} -eq 0 ] || chosen+=(tests)
if [ "$mode$failures" = again0 ] && [ ${#chosen[@]} -eq 0 ]; then
  usage again
  exit 1
fi
if [ "$mode" = first ]; then chosen=("${STAGES[@]}"); fi
export GPU_ROWS=$RESULTS/gpu-$mode.jsonl
log=$RESULTS/gpu-$mode-log.txt
rm -f "$RESULTS/gpu-$mode"{.jsonl,-log.txt,-log.txt.gz,-ncu.csv,-ncu-source.csv.gz}
: >"$GPU_ROWS"
wants() { [[ " ${chosen[*]:-} " = *" $1 "* ]]; }

# row STAGE KEY VALUE...: a row whose values are texts, or numbers.
row() {
  local line="{\"stage\": \"$1\"" value
  shift
  while [ $# -gt 0 ]; do
    value=$(tr -d '\000-\037"\\' <<<"$2" | cut -c1-240)
    [[ $value =~ ^[0-9]+$ ]] || value="\"$value\""
    line+=", \"$1\": $value"
    shift 2
  done
  echo "$line}" >>"$GPU_ROWS"
}

# skip NAME WHY
skip() {
  say "$1: skipped, $2"
  row "$1" why "skipped, $2"
}

# stage NAME LIMIT COMMAND...: within the limit and what is left of all; its output goes to the log.
stage() {
  local name=$1 limit=$2 left=$((total - SECONDS - LIMIT[table])) status=0 started=$SECONDS said=""
  local file=$work/${1//[^a-zA-Z0-9-]/_}.log
  shift 2
  [ "$limit" -le "$left" ] || limit=$left
  if [ "$limit" -lt 10 ]; then
    skip "$name" "no time is left"
    return 1
  fi
  # Of the limit, three seconds are for what begins nothing new, and three for what does not end when it is told to.
  GPU_STAGE=$name GPU_UNTIL=$(($(date +%s) + limit - 6)) timeout -k 3 $((limit - 3)) "$@" >"$file" 2>&1 </dev/null || status=$?
  if [ $status -ne 0 ]; then
    said=$(grep -aE -m1 '^=+ (Invalid|Error|Program hit)|^==ERROR==' "$file" || grep -a . "$file" | grep -av '^{' | tail -n 1)
  fi
  row "$name" status "$status" seconds "$((SECONDS - started))" said "$said"
  say "$name: status $status"
  # Files that come back are few and small.
  { echo "== $name: status $status" && tail -c 1000000 "$file"; } >>"$log"
  return $status
}

# spare NAME: the limit of a stage with what those before have left over and those after do not need.
spare() {
  local left=$((total - SECONDS - LIMIT[table])) name after=0
  for name in tests memcheck counters compiled small; do
    [ $after -eq 0 ] || ! wants "$name" || left=$((left - LIMIT[$name]))
    [ "$name" != "$1" ] || after=1
  done
  echo $((left > LIMIT[$1] ? left : LIMIT[$1]))
}

program() { local name=$1 limit=$2; shift 2; stage "$name" "$limit" "$PYTHON" "benchmarks/$1" "${@:2}"; }

# GPU_EXTENSION: another build than that in tdas_ops.
environment() {
  if [ -e "$main" ]; then
    GPU_EXTENSION=$PWD/$main program "environment, carried extension" "${LIMIT[environment]}" gpu_smoke.py environment &&
      export GPU_EXTENSION=$PWD/$main && return
  elif compgen -G "$carried/main/_C*" >/dev/null; then
    skip "environment, carried extension" "got $(basename "$carried"/main/_C*), expected _C$suffix of this Python"
  fi
  if compgen -G "tdas_ops/_C.*" >/dev/null; then
    program "environment" "${LIMIT[environment]}" gpu_smoke.py environment && return
  fi
  [ "$DEVICE" = cuda ] || return
  stage build $BUILD bash -c "$(declare -f build); build" && program "environment, built here" "${LIMIT[environment]}" gpu_smoke.py environment
}

sanitized() {
  local tool=$1 limit=$2
  if ! command -v compute-sanitizer >/dev/null; then
    skip "$tool" "compute-sanitizer is not found"
    return
  fi
  # Every tensor an allocation of its own, so that no neighbour hides what goes past an end.
  export PYTORCH_NO_CUDA_MEMORY_CACHING=1
  local checker=(compute-sanitizer --target-processes all --show-backtrace no --tool "$tool")
  if [ "$tool" = memcheck ]; then
    # What torch tries out on the driver's interface is no error; what our launches return, they report themselves.
    stage memcheck "$limit" "${checker[@]}" --error-exitcode 9 --report-api-errors no "$PYTHON" benchmarks/sanitize_cases.py
  else
    stage racecheck "$limit" bash -o pipefail -c '"$@" | "$PYTHON" benchmarks/gpu_races.py' racecheck \
      "${checker[@]}" --racecheck-report hazard --print-limit 10000000 "$PYTHON" benchmarks/sanitize_cases.py
  fi
}

clocks() {
  local query=clocks.sm,clocks.max.sm,clocks.mem,power.draw,power.limit,temperature.gpu
  row "$1" clocks "$(timeout 10 nvidia-smi --query-gpu=$query --format=csv,noheader 2>/dev/null)"
}

clocks environment
environment
variants=()
for found in "$carried"/*/_C"$suffix"; do
  name=$(basename "$(dirname "$found")")
  if [ -e "$found" ] && [ "$name" != main ]; then variants+=("$PWD/$found"); fi
done

if wants smoke; then
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
  for group in composed normals 32 64 128 large 512 1024 2048 pixels; do # composed waits for Triton's compiler
    program "smoke $group" "${LIMIT[smoke]}" gpu_smoke.py "$group" &
  done
  for found in ${variants[@]+"${variants[@]}"}; do
    name=$(basename "$(dirname "$found")")
    GPU_EXTENSION=$found program "smoke $name" "${LIMIT[smoke]}" gpu_smoke.py variant &
  done
  wait
fi
! wants repeat || program repeat "${LIMIT[repeat]}" gpu_smoke.py repeat
! wants times || program times "${LIMIT[times]}" gpu_times.py headline
if wants turns; then
  if [ ${#variants[@]} -gt 0 ]; then
    program turns "${LIMIT[turns]}" gpu_times.py turns "${variants[@]}"
  else
    skip turns "$carried has no variant of the extension"
  fi
fi

# The tests have the device to themselves: what the sanitizers watch runs tens of times as long.
! wants tests || program tests "$(spare tests)" gpu_tests.py 10 60 ${tests[@]+"${tests[@]}"}
checked=$(spare memcheck)
! wants memcheck || sanitized memcheck "$checked" &
! wants racecheck || sanitized racecheck "$checked" &
wait
if wants counters; then
  if command -v ncu >/dev/null; then
    program counters "$(spare counters)" gpu_profile.py "$RESULTS/gpu-$mode-ncu"
  else
    skip counters "ncu is not found"
  fi
fi
! wants compiled || program compiled "$(spare compiled)" gpu_times.py compiled
! wants small || program small "$(spare small)" gpu_times.py small

clocks end
[ ! -e "$log" ] || gzip -f "$log"
# The end of what is printed carries the most important.
timeout 10 "$PYTHON" -m benchmarks.report "$GPU_ROWS" >"$RESULTS/gpu-$mode.txt" || cp "$GPU_ROWS" "$RESULTS/gpu-$mode.txt"
tail -c 10000 "$RESULTS/gpu-$mode.txt"
[ $failures -eq 0 ] && ! grep -q '"status": [1-9]' "$GPU_ROWS"
