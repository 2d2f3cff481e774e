#!/bin/sh
# The adapters rephrase, continue and persona of the larger pushkin-mini, side by side on one GPU: none of them fills it.
#
# Usage: training/runs/pushkin-mini-gpu-adapters.sh BASE RUN
#   BASE  the exported base model (training.export)
#   RUN   holds rephrase-examples and continue-examples (training.task_data --n-train 80000 and 26000), texts.jsonl
#         (training.persona_data); adapters go to RUN/{rephrase,continue,persona}/adapters, logs beside them
# Needs peft, trl, datasets and MLX's CPU wheels (mlx, mlx-cpu) beside what pushkin-mini-gpu.sh needs.
# The committed rephrase and continue were made so in two minutes of an H200; persona did not end in that time and was trained
# on a CPU instead (models/pushkin-mini/adapters/persona/README.md).
set -eu
base=${1:?usage: $0 BASE RUN}
run=${2:?usage: $0 BASE RUN}
here=$(CDPATH= cd -- "$(dirname -- "$0")/../.." && pwd)
python=${PYTHON:-python3}
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS="${THREADS:-4}"

# task TASK STEPS RANK LEARNING_RATE BATCH
task() {
  "$python" -m training.task_lora --task "$1" --base "$base" --examples "$run/$1-examples" --out "$run/$1" \
    --steps "$2" --rank "$3" --learning-rate "$4" --batch "$5" --dropout 0 --precision bf16 --save-every 10000
}
task rephrase "${REPHRASE_STEPS:-625}" 32 3e-3 64 >"$run/rephrase.log" 2>&1 &
rephrase=$!
task continue "${CONTINUE_STEPS:-200}" 16 1.5e-3 64 >"$run/continue.log" 2>&1 &
continue=$!
status=0
"$python" -m training.persona_lora --base "$base" --encoder "$here/models/style-encoder" \
  --texts "$run/texts.jsonl" --out "$run/persona" --precision bf16 --rank 16 --tokens-per-step 4096 \
  --steps "${PERSONA_STEPS:-300}" --lesson-steps 110 --save-every 10000 >"$run/persona.log" 2>&1 || status=1
wait "$rephrase" || status=1
wait "$continue" || status=1
exit "$status"
