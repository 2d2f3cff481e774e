"""Child processes that read strangers' files: locked down before they begin, killed when they take too much."""
