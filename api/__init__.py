"""The HTTP edge: the only package that knows FastAPI, status codes and JSON."""
