#!/usr/bin/env bash
# Everything that needs a GPU, the most valuable first: tests; the recipe `gpu` over three seeds; a step, eager, in CUDA
# graphs and compiled; completion; two processes on one card; a student of the three seeds, and further recipes.
# A step that fails does not stop the next one, and each writes its own small files. In the root of the repository:
#
#     bash benchmarks/on_gpu.sh RESULTS_FOLDER [STEP ...]
#
# STEP is any of: tests recipe training completion processes student rotary others (all by default).
# `student` needs the runs of `recipe`.
set -u
results=${1:?usage: bash benchmarks/on_gpu.sh RESULTS_FOLDER [STEP ...]}
shift
steps=${*:-tests recipe training completion processes student rotary others}
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
    run "$1${NODE_RANK:-}" python scripts/fit.py --accelerator gpu --name "$@"
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

# As `generation-3`: rotary, longer than its teachers, and without n-grams beside them.
student() {
    local runs=lightning_logs/gpu
    fit student --config gpu --model.distillation 0.7 --model.ngram_distillation 0 --max_steps 5000 \
        --model.teachers "${runs}1/version_0,${runs}2/version_0,${runs}3/version_0" \
        --model.positions rotary --model.characters_ahead 4
}

training() {
    run train python -m benchmarks train --config gpu --accelerator gpu
    run train-graph python -m benchmarks train --config gpu --accelerator gpu --graph --rounds 5
    run train-compiled python -m benchmarks train --config gpu --accelerator gpu --compile --rounds 5
    run train-both python -m benchmarks train --config gpu --accelerator gpu --graph --compile --rounds 5
}

# NCCL refuses two processes on one card; gloo does not, and the rest of the path is the same.
processes() {
    export MASTER_ADDR=127.0.0.1 MASTER_PORT=29511
    local together=(--config gpu --data.batch_size 32 --max_steps 60 --val_check_interval 60 --num_nodes 2 --devices 1
        --trainer.strategy DDPStrategy --trainer.strategy.process_group_backend gloo)
    NODE_RANK=1 fit ddp "${together[@]}" >/dev/null &
    NODE_RANK=0 fit ddp "${together[@]}"
    wait
    unset MASTER_ADDR MASTER_PORT
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
