#!/bin/sh
# The shipped models/pushkin-mini (30 M parameters), trained on one GPU in a given time.
#
# Where the GPU's machine has the archives, training/runs/pushkin-mini.sh calls this and does all the rest. Otherwise,
# on a machine with the archives (10 minutes of one core, `python` with the train extra):
#   python -m training.shards --data DATA --cache TEXTS --tokenizer models/pushkin-mini --out SHARDS
#   python -m training.parcels pack --shards SHARDS --out PARTS --part-mb 15
# On the machine with the GPU, with this repository and as many of the parts as it will take:
#   MINUTES=5 training/runs/pushkin-mini-gpu.sh RUN OUT PARTS/shards-*.npz.xz
#     RUN    shards and checkpoints (1 GB); a run that is there goes on
#     OUT    weights in parts of 15 MB, loss curves, metrics
# Back on the first one:
#   cp models/pushkin-mini/token* NEW; python -m training.parcels join OUT --out NEW/checkpoint
#   python -m training.export --checkpoint NEW/checkpoint --out models/pushkin-mini
#   python -m training.evaluate_base --model models/pushkin-mini --checkpoint NEW/checkpoint \
#     --data DATA --cache TEXTS --shards SHARDS --out evaluation.json
#
# Needs torch, accelerate, transformers, tokenizers, safetensors, matplotlib there. MINUTES (default 5) are those of
# learning, compiling included; the later half decays through INT4 rounding. The committed weights had 4.4 of them on an
# H200. UNLEARN_STEPS (default 0; 48 take a minute) more unlearn the loops of greedy decoding, CONTINUATIONS of the
# model's own a step: what that costs is in training/LOG.md. pushkin-mini-gpu-adapters.sh goes on from there.
set -eu
run=${1:?usage: $0 RUN OUT PART...}
out=${2:?usage: $0 RUN OUT PART...}
shift 2
here=$(CDPATH= cd -- "$(dirname -- "$0")/../.." && pwd)
python=${PYTHON:-python3}
minutes=${MINUTES:-5}
unlearn_steps=${UNLEARN_STEPS:-0}
mkdir -p "$run" "$out"
half=$(awk -v m="$minutes" 'BEGIN { print m / 2 }')

export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" TORCHINDUCTOR_CACHE_DIR="$run/compiled"
test -f "$run/shards/shards.json" || "$python" -m training.parcels unpack "$@" --out "$run/shards"

train() {
  name=$1
  shift
  "$python" -m training.base_model --out "$run/$name" --shards "$run/shards" \
    --tokenizer "$here/models/pushkin-mini" --preset "${PRESET:-mini}" --microbatch-rows "${MICROBATCH:-64}" \
    --seq-len 1024 --precision bf16 --save-every 500 "$@"
}
train run --rows-per-step "${ROWS:-64}" --muon-lr "${MUON_LR:-0.02}" --adam-lr "${ADAM_LR:-0.008}" \
  --warmup-steps 100 ${COMPILED---compiled} --quantized-decay \
  --max-minutes "$minutes" --decay-minutes "$half"

last() { echo "$run/$1/$(cat "$run/$1/latest")"; }
final=$(last run)
if test "$unlearn_steps" -gt 0; then
  train unlikelihood --start "$final" --rows-per-step "${UNLEARN_ROWS:-32}" --quantized --unlikelihood 1 \
    --continuations "${CONTINUATIONS:-256}" --continuation-steps "${CONTINUATION_STEPS:-24}" --warmup-steps 4 \
    --muon-lr "${UNLEARN_MUON_LR:-0.006}" --adam-lr "${UNLEARN_ADAM_LR:-0.0012}" --decay-steps "$unlearn_steps"
  final=$(last unlikelihood)
fi
echo "$final" >"$run/final"

"$python" -m training.parcels split --checkpoint "$final" --out "$out" --part-mb 15
for name in run unlikelihood; do
  if test -d "$run/$name"; then
    cp "$run/$name/loss.png" "$out/$name-loss.png"
    cp "$run/$name/metrics.jsonl" "$out/$name-metrics.jsonl"
  fi
done
