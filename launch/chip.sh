#!/usr/bin/env bash
# All that one wants to know of a chip, on the day that there is one:
#   bash launch/chip.sh [OUT]           one GPU, or one host of TPUs; 8 minutes
#   SIZE=debug bash launch/chip.sh OUT  the same at a debug size, on any machine
# Trains MoCo-v3 (ViT-S/16) and SimCLR (ResNet-50) for some steps on synthetic
# images, each at the largest batch that fits, beside PyTorch with kornia where
# these are installed, and holds that against preflight's bound (with pip install
# 'cassle_jax[preflight-gpu]' or -tpu). OUT/chip.json has the numbers and
# OUT/chip.md a table for the README.
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:-runs/chip}"
python="${PYTHON:-python}"
logs="$out"
run() { "$@"; }
if [[ -n ${DRY_RUN:-} ]]; then
  logs="$(mktemp -d)"
  trap 'rm -r "$logs"' EXIT
  run() { echo "$@"; }
else
  mkdir -p "$out"
fi

configs=(mocov3_vit simclr_resnet50)
variant="" batches="1024 512 256 128 64" rounds=10 more=()
if [[ ${SIZE:-} == debug ]]; then
  variant=":tiny" batches="16" rounds=2 more=(--no-stages)
fi
# A share of the memory is kept for nobody else.
export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}"
on="${ON:-}"
[[ -n $on || -n ${DRY_RUN:-} ]] ||
  on="$("$python" -m cassle_jax.preflight.chip)"

step() { # CONFIG BATCH FILE [more flags]
  run "$python" -m cassle_jax.benchmark step --config="configs/$1.py$variant" \
    --batch="$2" --rounds="$rounds" --json="$3" "${more[@]}" "${@:4}"
}

for config in "${configs[@]}"; do
  file="$out/$config.json"
  found=""
  for batch in $batches; do
    # One that does not fit ends in an error.
    if step "$config" "$batch" "$file" 2> "$logs/$config.log"; then
      found="$batch"
      break
    fi
  done
  if [[ -z $found ]]; then
    tail -n 3 "$logs/$config.log" >&2
    exit 2
  fi
  if "$python" -c "import torch, kornia" 2> /dev/null; then
    log="$logs/$config-torch.log"
    if step "$config" "$found" "$file.torch" --compare torch 2> "$log"; then
      run mv "$file.torch" "$file"
    else
      echo "PyTorch was not timed: $(tail -n 1 "$log")" >&2
    fi
  fi
  if [[ -n $on && $on != cpu ]]; then
    run "$python" -m cassle_jax.preflight --on="$on" \
      --config="configs/$config.py$variant" --config.batch_size="$found" \
      --json="$out/$config-bound.json" ||
      echo "no bound for $config: see above" >&2
  fi
done
run "$python" -m cassle_jax.preflight.chip "$out" --json="$out/chip.json" \
  --markdown="$out/chip.md"
