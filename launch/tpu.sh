#!/usr/bin/env bash
# A slice of Cloud TPUs by gcloud, the same command on every worker:
#   bash launch/tpu.sh create NAME ZONE v6e-16     makes a spot slice
#   bash launch/tpu.sh setup  NAME ZONE BUCKET     installs HEAD of this clone,
#                                                  mounts the bucket at ~/runs
#   bash launch/tpu.sh run    NAME ZONE --config=configs/mocov3_vit.py --workdir=runs/vit
#   bash launch/tpu.sh logs   NAME ZONE            follows worker 0
#   bash launch/tpu.sh stop   NAME ZONE            saves and ends the run
#   bash launch/tpu.sh delete NAME ZONE
# The run goes on when this terminal closes. After a pre-emption: delete, create,
# setup and the same run line. DRY_RUN=1 prints the commands and does nothing.
#   VERSION=...   TPU software; default that of v6e (v2-alpha-tpuv6e)
#
# The Cloud TPU API serves v6e and older; for newer chips see launch/gke.yaml.
# The bucket must have a hierarchical namespace: a checkpoint is complete when
# its folder is renamed, which other buckets do file by file. --workdir is a
# mounted path, never gs://.
set -euo pipefail

fail() {
  echo "error: $*" >&2
  exit 2
}

[[ $# -ge 3 ]] || fail "bash launch/tpu.sh create|setup|run|logs|stop|delete NAME ZONE ..."
verb="$1" name="$2" zone="$3"
shift 3
cd "$(dirname "$0")/.."

call() {
  if [[ -n ${DRY_RUN:-} ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}
tpu=(gcloud compute tpus tpu-vm)
on_all() {
  call "${tpu[@]}" ssh "$name" --zone="$zone" --worker=all --command="$1"
}

case "$verb" in
create)
  [[ $# -eq 1 ]] || fail "bash launch/tpu.sh create NAME ZONE TYPE, e.g. v6e-16"
  call "${tpu[@]}" create "$name" --zone="$zone" --accelerator-type="$1" \
    --version="${VERSION:-v2-alpha-tpuv6e}" --spot
  ;;
setup)
  [[ $# -eq 1 ]] || fail "bash launch/tpu.sh setup NAME ZONE BUCKET"
  package=/tmp/cassle_jax.tar.gz
  call git archive --format=tar.gz --output="$package" HEAD
  call "${tpu[@]}" scp "$package" "$name:" --zone="$zone" --worker=all
  # The image's own Python may be older than cassle_jax needs; uv brings one.
  on_all "set -e
mkdir -p cassle_jax runs
tar -xzf cassle_jax.tar.gz -C cassle_jax
python3 -m pip install --quiet --user uv
python3 -m uv venv --quiet --clear --python 3.12 venv
python3 -m uv pip install --quiet --python venv/bin/python \
  --constraint cassle_jax/launch/constraints.txt --editable 'cassle_jax[tpu]'
if ! command -v gcsfuse; then
  key=/usr/share/keyrings/cloud.google.asc
  curl -s https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee \$key > /dev/null
  echo \"deb [signed-by=\$key] https://packages.cloud.google.com/apt gcsfuse-\$(lsb_release -cs) main\" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list
  sudo apt-get -qq update
  sudo apt-get -qq install gcsfuse
fi
mountpoint -q runs || gcsfuse --implicit-dirs $(printf %q "$1") runs"
  ;;
run)
  [[ " $* " == *" --workdir"[=\ ]* ]] ||
    fail "give --workdir=runs/NAME, in the bucket, to continue from"
  # Kept apart from the terminal, so that a lost connection ends nothing.
  on_all "if kill -0 \$(cat main.pid) 2> /dev/null; then
  echo 'a run is under way; launch/tpu.sh stop ends it' >&2
  exit 1
fi
ln -sfn ~/runs cassle_jax/runs
cd cassle_jax
nohup ../venv/bin/python -m cassle_jax.main --distributed=auto$(printf ' %q' "$@") \
  > ../main.log 2>&1 < /dev/null &
echo \$! > ../main.pid"
  ;;
logs)
  call "${tpu[@]}" ssh "$name" --zone="$zone" --worker=0 \
    --command="tail -n 100 -F main.log"
  ;;
stop)
  on_all "kill -TERM \$(cat main.pid) && tail --pid=\$(cat main.pid) -s 0.2 -n 5 -f main.log"
  ;;
delete)
  call "${tpu[@]}" delete "$name" --zone="$zone" --quiet
  ;;
*)
  fail "$verb is none of create, setup, run, logs, stop, delete"
  ;;
esac
