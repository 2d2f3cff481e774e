"""OpenAI's API as its official clients speak it: unknown fields are ignored, defaults are OpenAI's."""
