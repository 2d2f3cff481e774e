#!/bin/sh
# Re-creates models/pushkin-mini from the corpus archives: tokenizer, shards, training, export, figures.
#
# Usage: training/runs/pushkin-mini.sh DATA RUN [CACHE]
#   DATA   folder with the corpus archives and corpus-manifest.tsv
#   RUN    folder for shards, checkpoints and figures (about 600 MB); a run that is there goes on
#   CACHE  where archives are unpacked (about 400 MB; default RUN/texts)
# PYTHON names the interpreter (default: python).
#
# With a GPU that torch sees, this makes the shipped model, 30 M parameters, in MINUTES (default 5) of training. Without
# one, the small edition of 8.9 M that was shipped before; its adapters then have to be made again as well. THREADS
# (default 2): on two CPU cores with AVX-512 BF16 5 minutes of preparation, then 3,000 tokens a second when the machine
# is otherwise idle ((STABLE_STEPS + DECAY_STEPS) x 4,096 tokens: an hour), 5 minutes of evaluation; 4 GB of memory.
# No network. Stop it with SIGTERM and run it again.
set -eu
data=${1:?usage: $0 DATA RUN [CACHE]}
run=${2:?usage: $0 DATA RUN [CACHE]}
cache=${3:-$run/texts}
here=$(CDPATH= cd -- "$(dirname -- "$0")/../.." && pwd)
python=${PYTHON:-python}
stable_steps=${STABLE_STEPS:-1119}
decay_steps=${DECAY_STEPS:-1478}
long_steps=${LONG_STEPS:-97}
unlearn_steps=${UNLEARN_STEPS:-0}
export MLX_DISABLE_COMPILE=1 OMP_WAIT_POLICY=passive

data=$(CDPATH= cd -- "$data" && pwd)
mkdir -p "$run" "$cache"
run=$(CDPATH= cd -- "$run" && pwd)
cache=$(CDPATH= cd -- "$cache" && pwd)
cd "$here"

test -f "$run/tokenizer/tokenizer.json" || "$python" -m training.tokenizer \
  --data "$data" --cache "$cache" --out "$run/tokenizer" --chars-per-language 12000000
test -f "$run/shards/shards.json" || "$python" -m training.shards \
  --data "$data" --cache "$cache" --tokenizer "$run/tokenizer" --out "$run/shards"

if "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  PYTHON="$python" training/runs/pushkin-mini-gpu.sh "$run" "$run/parts"
  final=$(cat "$run/final")
else
  train() {
    name=$1
    shift
    "$python" -m training.base_model --out "$run/$name" --shards "$run/shards" --tokenizer "$run/tokenizer" \
      --preset mini-cpu --rows-per-step 4 --microbatch-rows 4 --precision bf16 --threads "${THREADS:-2}" "$@"
  }
  learn() { train run --muon-lr 0.02 --adam-lr 0.012 --warmup-steps 40 --compiled "$@"; }
  last() { echo "$run/$1/$(cat "$run/$1/latest")"; }
  # Stable phase, then the decay, on sequences of 512; the last part on 1,024, through INT4 rounding.
  learn --steps "$stable_steps" --seq-len 512
  learn --decay-steps "$decay_steps" --steps $((stable_steps + decay_steps - long_steps)) --seq-len 512
  learn --decay-steps "$decay_steps" --seq-len 1024 --quantized
  # UNLEARN_STEPS more: without its loops of greedy decoding.
  final=$(last run)
  if test "$unlearn_steps" -gt 0; then
    train unlikelihood --start "$final" --decay-steps "$unlearn_steps" --seq-len 1024 --quantized \
      --muon-lr 0.006 --adam-lr 0.002 --warmup-steps 4 --unlikelihood 1
    final=$(last unlikelihood)
  fi
fi

"$python" -m training.export --checkpoint "$final" --tokenizer "$run/tokenizer" --out models/pushkin-mini
"$python" -m training.evaluate_base --model models/pushkin-mini --checkpoint "$final" \
  --data "$data" --cache "$cache" --shards "$run/shards" --out "$run/evaluation.json"
