"""The outermost room: configuration, wiring, process life, command line, service."""

__version__ = "0.1.0"
