#!/usr/bin/env bash
# Everything that needs a GPU, in about a quarter of an hour on one H100: tests, the recipe `gpu` over three seeds,
# a student of these three with an n-gram memory, the speed of training and of completion, and the recipes
# that are made for a GPU. A step that fails does not stop the others. Usage, in the root of the repository:
#
#     bash benchmarks/on_gpu.sh RESULTS_FOLDER [STEP ...]
#
# STEP is any of: tests recipe rotary student training completion others (all by default); student needs recipe.
set -u
results=${1:?usage: bash benchmarks/on_gpu.sh RESULTS_FOLDER [STEP ...]}
shift
steps=${*:-tests recipe rotary student training completion others}
mkdir -p "$results"

# Run a command, with its output in a file of that name, each line after the seconds since its start.
run() {
    local name=$1 start
    shift
    start=$(date +%s.%N)
    "$@" 2>&1 | while IFS= read -r line; do
        printf '%7.1f %s\n' "$(echo "$(date +%s.%N) $start" | awk '{print $1 - $2}')" "$line"
    done >"$results/$name.txt"
    echo "$name: ended with ${PIPESTATUS[0]}"
}

fit() {
    run "$1" python scripts/fit.py --accelerator gpu --name "$@"
}

tests() {
    run tests python -m pytest -m gpu -rA
}

recipe() {
    for seed in 1 2 3; do
        fit "gpu$seed" --config gpu --seed "$seed"
    done
    fit gpu-short --config gpu --max_steps 600 --val_check_interval 600
}

# The changes that took `memory-laptop` from 1.3716 to 1.3630.
rotary() {
    fit rotary --config gpu --model.positions rotary
    fit rotary-ahead --config gpu --model.positions rotary --model.characters_ahead 4
}

student() {
    local runs=lightning_logs/gpu
    fit student --config gpu --model.distillation 0.7 \
        --model.teachers "${runs}1/version_0,${runs}2/version_0,${runs}3/version_0" \
        --model.memory_order 8 --model.memory_share 0.1
}

training() {
    run train python -m benchmarks train --config gpu --accelerator gpu
    run train-compiled python -m benchmarks train --config gpu --accelerator gpu --compile
}

completion() {
    local complete=(python -m benchmarks complete --device cuda --dtype auto --shapes gpu)
    run complete "${complete[@]}"
    run complete-1024 "${complete[@]}" --texts 1024 --characters 256 --starts 0
    run complete-compiled "${complete[@]}" --compile --texts 1 --starts 0
}

others() {
    fit nanogpt --config nanogpt
    fit script --config script --data.corpus tinyshakespeare
    fit notebook --config notebook
}

nvidia-smi --query-gpu=name,driver_version --format=csv >"$results/gpu.txt"
python -c "import torch; print(torch.__version__, torch.version.cuda)" >>"$results/gpu.txt"
for step in $steps; do
    "$step"
done
grep -H val_loss "$results"/*.txt | grep -vw nan >"$results/losses.log"
