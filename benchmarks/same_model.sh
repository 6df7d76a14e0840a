#!/usr/bin/env bash
# The model of the README, trained twice in two new environments: its exported weights must be the same bytes. Prints
# their SHA-256 and the processor that it holds for. Usage: bash benchmarks/same_model.sh [options of fit ...]
set -euo pipefail
root=$(realpath "$(dirname "$0")/..")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export OMP_NUM_THREADS=2 SHAKESPEARE_LM_DATA=${SHAKESPEARE_LM_DATA:-$root/data}

for copy in first second; do
    "$root/.ci/install" "$folder/$copy"
    cd "$folder/$copy"
    bin/python "$root/scripts/fit.py" --config default --seed 3 --deterministic true --accelerator cpu "$@" >&2
    bin/python "$root/scripts/export.py" --to safetensors --output model.safetensors >/dev/null
done

grep -m 1 'model name' /proc/cpuinfo || uname -srm
(cd "$folder" && sha256sum {first,second}/model.safetensors)
cmp "$folder"/{first,second}/model.safetensors
