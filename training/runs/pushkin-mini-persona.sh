#!/bin/sh
# Re-creates models/style-encoder and models/pushkin-mini/adapters/persona from the corpus archives, with their figures.
#
# Usage: training/runs/pushkin-mini-persona.sh DATA RUN [CACHE]
#   DATA   folder with the corpus archives and corpus-manifest.tsv
#   RUN    folder for texts, checkpoints and figures (about 200 MB); a run that is there goes on
#   CACHE  where archives are unpacked (about 400 MB; default RUN/cache)
# PYTHON names the interpreter (default: python), THREADS the CPU threads (default 1), MINUTES those of the persona's
# training (default 20, as the committed one had: 194 steps), PRECISION bf16 for a processor with AVX-512 BF16 or AMX.
#
# Expected cost on one CPU core: 4 minutes of texts and vectors, 8 of encoder, MINUTES of persona, 20 of evaluation; 4 GB
# of memory, no network. Stop it with SIGTERM and run it again.
set -eu
data=${1:?usage: $0 DATA RUN [CACHE]}
run=${2:?usage: $0 DATA RUN [CACHE]}
cache=${3:-$run/cache}
here=$(CDPATH= cd -- "$(dirname -- "$0")/../.." && pwd)
python=${PYTHON:-python}
threads=${THREADS:-1}
base=models/pushkin-mini
encoder=models/style-encoder
export OMP_NUM_THREADS="$threads" MLX_DISABLE_COMPILE=1 TOKENIZERS_PARALLELISM=false

data=$(CDPATH= cd -- "$data" && pwd)
mkdir -p "$run" "$cache"
run=$(CDPATH= cd -- "$run" && pwd)
cache=$(CDPATH= cd -- "$cache" && pwd)
cd "$here"

test -f "$run/texts.jsonl" || "$python" -m training.persona_data \
  --data "$data" --cache "$cache" --out "$run/texts.jsonl"

# A new encoder is another embedding space: the plug must then be trained again, and every index rebuilt.
test -f "$run/encoder.json" || {
  "$python" -m training.style_encoder --texts "$run/texts.jsonl" --out "$encoder" \
    --run "$run/encoder" --steps 1850 --threads "$threads"
  "$python" -m training.evaluate_style --encoder "$encoder" --texts "$run/texts.jsonl" \
    --out "$run/encoder.json"
}

"$python" -m training.persona_lora --base "$base" --encoder "$encoder" --texts "$run/texts.jsonl" \
  --out "$run/persona" --rank 16 --precision "${PRECISION:-no}" --steps "${STEPS:-400}" --lesson-steps 100 --max-minutes "${MINUTES:-20}" --threads "$threads"
# The card stays where it is: only the adapter's and the plug's own files are taken over.
mkdir -p "$base/adapters/persona"
for name in adapter.json adapter.safetensors persona-plug.json persona-plug.safetensors; do
  cp "$run/persona/adapters/persona/$name" "$base/adapters/persona/$name"
done

"$python" -m training.evaluate_persona --base "$base" --encoder "$encoder" \
  --adapter "$base/adapters/persona" --texts "$run/texts.jsonl" --generate 100 \
  --threads "$threads" --out "$run/evaluation.json"
