#!/bin/sh
# The larger edition of models/pushkin-mini (30 M parameters), trained on one GPU in a given time. NOT RUN YET.
#
# On a machine with the corpus archives (10 minutes of one core, `python` with the train extra):
#   python -m training.shards --data DATA --cache TEXTS --tokenizer models/pushkin-mini --out SHARDS
#   python -m training.parcels pack --shards SHARDS --out PARTS --part-mb 27
# On the machine with the GPU, with this repository and as many of the parts as it will take:
#   MINUTES=10 training/runs/pushkin-mini-gpu.sh RUN OUT PARTS/shards-*.npz.xz
#     RUN    shards and checkpoints (1 GB); a run that is there goes on
#     OUT    weights in parts of 15 MB, loss curve, metrics
# Back on the first one:
#   cp models/pushkin-mini/token* NEW; python -m training.parcels join OUT --out NEW/checkpoint
#   python -m training.export --checkpoint NEW/checkpoint --out models/pushkin-mini
#   python -m training.evaluate_base --model models/pushkin-mini --checkpoint NEW/checkpoint \
#     --data DATA --cache TEXTS --shards SHARDS --out evaluation.json
#
# Needs torch, accelerate, transformers, tokenizers, safetensors, matplotlib there. MINUTES (default 10) is the time for
# all phases, compiling included: 48 % at the full rate, 27 % of decay, 11 % through INT4 rounding, and 14 % that unlearn
# the loops of greedy decoding (CONTINUATIONS of the model's own a step, not compiled: every batch has another length).
set -eu
run=${1:?usage: $0 RUN OUT PART...}
out=${2:?usage: $0 RUN OUT PART...}
shift 2
here=$(CDPATH= cd -- "$(dirname -- "$0")/../.." && pwd)
python=${PYTHON:-python3}
minutes=${MINUTES:-10}
mkdir -p "$run" "$out"
share() { awk -v m="$minutes" -v p="$1" 'BEGIN { print m * p / 100 }'; }

export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" TORCHINDUCTOR_CACHE_DIR="$run/compiled"
test -f "$run/shards/shards.json" || "$python" -m training.parcels unpack "$@" --out "$run/shards"

train() {
  name=$1
  shift
  "$python" -m training.base_model --out "$run/$name" --shards "$run/shards" \
    --tokenizer "$here/models/pushkin-mini" --preset "${PRESET:-mini}" --microbatch-rows "${MICROBATCH:-64}" \
    --seq-len 1024 --precision bf16 --save-every 500 "$@"
}
learn() {
  train run --rows-per-step "${ROWS:-128}" --muon-lr "${MUON_LR:-0.02}" --adam-lr "${ADAM_LR:-0.008}" \
    --warmup-steps 100 ${COMPILED---compiled} "$@"
}
learn --max-minutes "$(share 48)"
learn --decay-minutes "$(share 38)" --max-minutes "$(share 27)"
learn --decay-minutes "$(share 38)" --max-minutes "$(share 13)" --quantized

last() { echo "$run/$1/$(cat "$run/$1/latest")"; }
unlearn() {
  train unlikelihood --start "$(last run)" --rows-per-step "${UNLEARN_ROWS:-32}" --continuations "${CONTINUATIONS:-256}" \
    --muon-lr "${UNLEARN_MUON_LR:-0.004}" --adam-lr "${UNLEARN_ADAM_LR:-0.0008}" --warmup-steps 4 --unlikelihood 1 \
    --quantized "$@"
}
unlearn --max-minutes "$(share 7)"
unlearn --decay-minutes "$(share 7)" --max-minutes "$(share 9)"

"$python" -m training.parcels split --checkpoint "$(last unlikelihood)" --out "$out" --part-mb 15
for name in run unlikelihood; do
  cp "$run/$name/loss.png" "$out/$name-loss.png"
  cp "$run/$name/metrics.jsonl" "$out/$name-metrics.jsonl"
done
