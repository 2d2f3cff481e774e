"""`python -m daemon` is `pushkin`: launchd starts the interpreter itself, never a script."""

from daemon.cli import main

if __name__ == "__main__":
    main()
