"""The command line ``samfeat``: one command for each stage, and its errors in one line."""

from __future__ import annotations

import faulthandler
import logging
import sys
from contextlib import suppress

import typer

from .commands import (
    doctor,
    evaluation,
    localization,
    maps,
    reconstruction,
    report,
    stages,
    submission,
    teaching,
    training,
    visualization,
)
from .errors import SamfeatError, cause_of
from .version import __version__

app = typer.Typer(
    help="SAMFeat local features for visual localization with hloc and COLMAP.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for commands in (
    stages,
    localization,
    maps,
    reconstruction,
    submission,
    evaluation,
    visualization,
    report,
    teaching,
    training,
    doctor,
):
    commands.register(app)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> None:
    """Run the command line; an error that people can mend is one line and exit code 1."""
    run(app)


def run(command: typer.Typer) -> None:
    """Run a typer application with logging on standard error and one-line errors."""
    with suppress(OSError, ValueError, AttributeError):  # standard error is not a file
        # a library that crashes takes the process with it: say at least of what and where
        faulthandler.enable(all_threads=False)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        command()
    except SamfeatError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
    except Exception as error:
        why = cause_of(error)  # of the machine: a full disk, too little memory
        if why is None:
            raise
        where = getattr(error, "filename", None) or "samfeat"
        typer.echo(f"error: {where}: {why}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo("stopped; the same command goes on from here", err=True)
        sys.exit(130)
