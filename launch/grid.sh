#!/usr/bin/env bash
# Every supported cell of the grid on the bundled tiles, three seeds each:
#   bash launch/grid.sh [OUT [flags of cassle_jax.benchmark.grid_train ...]]
# Two processes share the cells: two small programs keep two cores busier than
# one does. The same line continues an interrupted run; OUT/grid.md is the table.
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:-runs/grid}"
shift || true
train=("${PYTHON:-python}" -m cassle_jax.benchmark.grid_train --out="$out" "$@")

"${train[@]}" --share=1/2 > /dev/null &
first=$!
trap 'kill "$first" 2> /dev/null || true' EXIT
"${train[@]}" --share=2/2 > /dev/null
wait "$first"
"${train[@]}"
