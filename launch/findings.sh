#!/usr/bin/env bash
# The paper's findings in miniature, on the bundled tiles:
#   bash launch/findings.sh [OUT [overrides of the training runs ...]]
# SimCLR and CASSLE with three seeds each, all evaluations, one report. Two runs
# at a time keep two cores busier than one does. The same line continues an
# interrupted one; OUT/report/report.html shows what came out.
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:-runs/findings}"
shift || true
python="${PYTHON:-python}"

train() {
  "$python" -m cassle_jax.main --config="configs/quickstart.py:$1" \
    --config.seed="$2" --config.evaluation.linear=False \
    --workdir="$out/$1-$2" "${@:3}" > "$out/$1-$2.log" 2>&1 ||
    { tail -n 3 "$out/$1-$2.log" >&2; return 1; }
  echo "trained $out/$1-$2"
}

mkdir -p "$out"
for seed in 0 1 2; do
  train vanilla "$seed" "$@" &
  other=$!
  train cassle "$seed" "$@"
  wait "$other"
done
for seed in 0 1 2; do
  for kind in vanilla cassle; do
    "$python" -m cassle_jax.evaluate --config=configs/eval/findings.py \
      --workdir="$out/$kind-$seed"
  done
done
"$python" -m cassle_jax.report "$out" --out="$out/report"
