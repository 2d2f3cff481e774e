#!/bin/sh
# Re-creates models/pushkin-mini/adapters/dictate (projector and audio LoRA) and its figures.
#
# Usage: training/runs/pushkin-mini-audio.sh DATA ENCODER RUN
#   DATA     folder with the corpus archives, corpus-manifest.tsv and speech.tar
#   ENCODER  folder of the Whisper base encoder (config.json, encoder.safetensors)
#   RUN      folder for states, checkpoints and figures (about 3 GB); a run that is there goes on
# PYTHON names the interpreter (default: python), THREADS the CPU threads (default 1). START, the folder of a trained dictate adapter of
# any base with the same tokenizer, spares most of the first part: its projector is carried over (`training.speech_start`).
# Needs espeak-ng, flite, festival and festvox-ru on the PATH; no network. Stop it with SIGTERM and run it again.
set -eu
data=${1:?usage: $0 DATA ENCODER RUN}
encoder=${2:?usage: $0 DATA ENCODER RUN}
run=${3:?usage: $0 DATA ENCODER RUN}
here=$(CDPATH= cd -- "$(dirname -- "$0")/../.." && pwd)
python=${PYTHON:-python}
threads=${THREADS:-1}
export OMP_NUM_THREADS="$threads" TOKENIZERS_PARALLELISM=false

data=$(CDPATH= cd -- "$data" && pwd)
encoder=$(CDPATH= cd -- "$encoder" && pwd)
mkdir -p "$run/cache" "$run/speech"
run=$(CDPATH= cd -- "$run" && pwd)
cd "$here"
base=models/pushkin-mini

test -d "$run/speech/speech" || tar -xf "$data/speech.tar" -C "$run/speech"
for side in train test; do
  "$python" -m training.speech_features --data "$data" --speech "$run/speech/speech" --encoder "$encoder" \
    --cache "$run/cache" --out "$run/features" --side "$side"
done
learn() {
  name=$1
  shift
  "$python" -m training.audio_lora --base "$base" --features "$run/features" --out "$run/$name" --encoder "$encoder" \
    --persona "$base/adapters/persona" --style-encoder models/style-encoder --threads "$threads" --rank "${RANK:-16}" "$@"
}
steps=${PROJECTOR_STEPS:-6000}
learn reading --start "${START:-}" --projector-steps "$steps" --steps "$steps" --projector-rate 0.001
learn deciding --start "$run/reading/adapters/dictate" --projector-steps 0 --steps "${DECIDING_STEPS:-370}" --lora-rate 0.002
mkdir -p "$base/adapters/dictate"
for name in adapter.json adapter.safetensors speech-projector.json speech-projector.safetensors; do
  cp "$run/deciding/adapters/dictate/$name" "$base/adapters/dictate/$name"
done
mkdir -p "$run/home/models"
test -e "$run/home/models/${encoder##*/}" || ln -s "$encoder" "$run/home/models/"
export PUSHKIN_HOME="$run/home"
"$python" -m benchmarks.command_calibration --model "$here/$base" --commands 80 --near-misses 80 --dictation 40 \
  > "$run/calibration.json"
"$python" -m training.evaluate_audio --base "$base" --adapter "$base/adapters/dictate" --features "$run/features" \
  --data "$data" --speech "$run/speech/speech" --cache "$run/cache" --sphinx "$run/sphinx.json" \
  --persona "$base/adapters/persona" --style-encoder models/style-encoder --threads "$threads" --out "$run/evaluation.json"
