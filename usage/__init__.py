"""How the daemon is used, for its user alone: counts when they agree, texts when they agree a second time."""
