"""Speech: microphone or file → utterances → log-mel → Whisper encoder → projected rows for the model."""
