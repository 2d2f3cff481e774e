#!/bin/sh
# Makes models/pushkin-mini/adapters/{continue,rephrase} on a CPU: examples, training, export, held-out figures.
#
# Usage: training/runs/pushkin-mini-adapters.sh DATA RUN [CACHE]
#   DATA   folder with the corpus archives, corpus-manifest.tsv and writing-edits.tar.xz
#   RUN    folder for examples, checkpoints and figures (about 400 MB); a run that is there goes on
#   CACHE  where archives are unpacked (about 400 MB; default RUN/texts)
# PYTHON names the interpreter (default: python), THREADS the CPU threads of each step (default 1),
# REPHRASE_STEPS and CONTINUE_STEPS the updates.
#
# Expected cost: examples 2 minutes; about 1,500 tokens a second and thread, AVX-512 BF16, on a machine that is
# otherwise idle. 6 GB of memory, no network. Stop it with SIGTERM and run it again.
#
# For a base that was made without a GPU. The committed adapters come from pushkin-mini-gpu-adapters.sh, on the same
# examples; on this one's settings the first edition's were made (training/LOG.md has the particulars).
set -eu
data=${1:?usage: $0 DATA RUN [CACHE]}
run=${2:?usage: $0 DATA RUN [CACHE]}
cache=${3:-$run/texts}
here=$(CDPATH= cd -- "$(dirname -- "$0")/../.." && pwd)
python=${PYTHON:-python}
threads=${THREADS:-1}
export OMP_NUM_THREADS="$threads" OMP_WAIT_POLICY=passive MLX_DISABLE_COMPILE=1 HF_HUB_OFFLINE=1

data=$(CDPATH= cd -- "$data" && pwd)
mkdir -p "$run" "$cache"
run=$(CDPATH= cd -- "$run" && pwd)
cache=$(CDPATH= cd -- "$cache" && pwd)
cd "$here"
base=models/pushkin-mini

if ! test -d "$cache/writing-edits"; then
  mkdir -p "$cache/.writing-edits"
  tar -xf "$data/writing-edits.tar.xz" -C "$cache/.writing-edits"
  mv "$cache/.writing-edits" "$cache/writing-edits"
fi

# adapter TASK N_TRAIN STEPS RANK LEARNING_RATE BATCH
adapter() {
  test -f "$run/$1-examples/about.json" || "$python" -m training.task_data --task "$1" \
    --data "$data" --cache "$cache" --edits "$cache/writing-edits" --base "$base" \
    --out "$run/$1-examples" --n-train "$2"
  "$python" -m training.task_lora --task "$1" --base "$base" --examples "$run/$1-examples" \
    --out "$run/$1" --steps "$3" --rank "$4" --learning-rate "$5" --batch "$6" --dropout 0 \
    --precision bf16 --threads "$threads" --save-every 100
  "$python" -m training.evaluate_task --base "$base" --adapter "$run/$1/adapters/$1" \
    --examples "$run/$1-examples" --threads "$threads" --out "$run/$1/evaluation.json"
  mkdir -p "$base/adapters/$1"
  cp "$run/$1/adapters/$1/adapter.json" "$run/$1/adapters/$1/adapter.safetensors" \
    "$base/adapters/$1/"
}

adapter rephrase 45000 "${REPHRASE_STEPS:-1400}" 48 3e-3 32
adapter continue 24000 "${CONTINUE_STEPS:-400}" 32 1.5e-3 16
