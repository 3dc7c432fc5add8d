#!/usr/bin/env bash
# Every supported cell of the grid on the bundled tiles, three seeds each:
#   bash launch/grid.sh [OUT [overrides of the training runs ...]]
#   METHODS=simclr,byol AWARENESS=cassle SEEDS=5 JOBS=1 bash launch/grid.sh OUT
# Each is a run in a folder of its own, and OUT/grid.md the table of all. JOBS
# runs (2) go on at a time: two small programs keep two cores busier than one
# does. The same line continues what was interrupted.
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:-runs/grid}"
shift || true
python="${PYTHON:-python}"
jobs="${JOBS:-2}"
mkdir -p "$out"
# Seeds of a cell are one program, compiled once.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR-$out/.jax_cache}"

chosen=(--methods="${METHODS:-}" --awareness="${AWARENESS:-}")
mapfile -t cells < <("$python" -m cassle_jax.benchmark grid "${chosen[@]}")
((${#cells[@]})) || exit 2

share() { # Every JOBS-th cell, from the given one.
  local run=""
  trap '[[ -z $run ]] || kill "$run" 2> /dev/null; exit 143' TERM
  for ((number = $1; number < ${#cells[@]}; number += jobs)); do
    cell="${cells[number]}"
    for ((seed = 0; seed < ${SEEDS:-3}; seed++)); do
      folder="$out/${cell/\//-}-$seed"
      [[ ! -f $folder/summary.json ]] || continue
      "$python" -m cassle_jax.main --config="configs/grid.py:$cell" \
        --config.seed="$seed" --config.evaluation.linear=False \
        --workdir="$folder" "${@:2}" > "$folder.log" 2>&1 &
      run=$!
      wait "$run" || { tail -n 3 "$folder.log" >&2; return 1; }
      echo "trained $folder ($((number + 1)) of ${#cells[@]} cells)"
    done
  done
}

shares=()
trap 'kill "${shares[@]}" 2> /dev/null || true' EXIT
trap 'exit 143' TERM
for ((job = 0; job < jobs; job++)); do
  share "$job" "$@" &
  shares+=("$!")
done
for share in "${shares[@]}"; do wait "$share"; done
"$python" -m cassle_jax.benchmark grid "$out" "${chosen[@]}" > "$out/grid.md"
cat "$out/grid.md"
