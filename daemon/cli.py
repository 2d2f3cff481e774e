"""The command `pushkin`. Nothing heavy is imported before a command needs it: help is instant."""

from __future__ import annotations

import sys
from typing import Any

import click

from daemon import __version__
from daemon.cli_adapters import adapters_group
from daemon.cli_diagnose import diagnose
from daemon.cli_dictate import dictate, dictation_group
from daemon.cli_export import export_group
from daemon.cli_index import index_group
from daemon.cli_inspect import config_group, token, version
from daemon.cli_logs import logs
from daemon.cli_models import models_group
from daemon.cli_pair import pair_group
from daemon.cli_persona import persona_group
from daemon.cli_serve import serve
from daemon.cli_service import service
from daemon.cli_stats import stats_group
from daemon.cli_status import status
from daemon.cli_write import continue_, rephrase, story
from daemon.environment import set_defaults
from daemon.errors import DaemonError
from daemon.terminal import discard_stdout, print_error

_COMPLETE_VARIABLE = "_PUSHKIN_COMPLETE"
_CANCELLED = 130


class _Commands(click.Group):
    """A group for which a closed pipe (`… | head`) is not the failure click makes of it."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            discard_stdout()
            return 0


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Exit codes:
  0    done
  1    failed
  2    wrong usage, configuration or text
  3    the daemon is not running
  4    the token is missing, unsafe or refused
  69   not available on this system
  75   loading or busy, try again
  130  cancelled with Ctrl-C

\b
State (config, token, models, logs) is in one folder: PUSHKIN_HOME, see `pushkin config show`.""",
)
@click.version_option(__version__, message="pushkin %(version)s")
def app() -> None:
    """Lil Pushkin: continues and rephrases what you write, on this machine only."""


@app.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print shell completion: `eval "$(pushkin completion zsh)"`."""
    from click.shell_completion import get_completion_class

    completer = get_completion_class(shell)
    assert completer is not None  # the choices above are click's own
    click.echo(completer(app, {}, "pushkin", _COMPLETE_VARIABLE).source())


for _command in (
    *(serve, status, continue_, rephrase, story, dictate),
    *(
        token,
        pair_group,
        config_group,
        models_group,
        adapters_group,
        export_group,
        index_group,
        persona_group,
        dictation_group,
        stats_group,
        logs,
        diagnose,
        service,
        version,
    ),
):
    app.add_command(_command)


def run(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code; what a user can cause ends in a message."""
    try:
        code = app.main(
            arguments,
            prog_name="pushkin",
            complete_var=_COMPLETE_VARIABLE,
            standalone_mode=False,
        )
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _CANCELLED
    except DaemonError as error:
        print_error(str(error))
        return error.exit_code
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print_error(f"{where}{error.strerror or error}")
        return 1
    return code if isinstance(code, int) else 0


def main() -> None:
    """Entry point of the script and of `python -m daemon`."""
    set_defaults()
    sys.exit(run())
