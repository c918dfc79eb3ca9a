"""The command line ``samfeat``: one command for each stage, and its errors in one line."""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated, NoReturn

import typer

from .colmap.bounded import at_work
from .commands import (
    check,
    doctor,
    evaluation,
    export,
    kapture,
    localization,
    localizing,
    maps,
    pairs,
    reconstruction,
    report,
    stages,
    submission,
    teaching,
    training,
    visualization,
)
from .commands import run as run_commands
from .commands.application import Application, PlainCommand
from .errors import SamfeatError, cause_of
from .version import __version__

app = Application(help="SAMFeat local features for visual localization with hloc and COLMAP.")
for commands in (
    reconstruction,
    localizing,
    maps,
    check,
    run_commands,
    stages,
    pairs,
    localization,
    kapture,
    report,
    evaluation,
    submission,
    visualization,
    teaching,
    training,
    export,
    doctor,
):
    commands.register(app)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback(no_args_is_help=True)
def _samfeat(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=_print_version,
            help="Print the version and exit.",
        ),
    ] = False,
) -> None:
    pass


@app.command("version", hidden=True)
def _version() -> None:
    """Print the version."""
    typer.echo(__version__)


_INTERRUPTED = 130  # exit code by Ctrl-C, as typer has it too


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an error that people can mend is one line and exit code 1.

    Arguments:
        arguments: in place of those that the program was called with.
    """
    run(app, arguments)


def run(command: typer.Typer, arguments: Sequence[str] | None = None) -> None:
    """Run a typer application with logging on standard error and one-line errors."""
    with suppress(OSError, ValueError, AttributeError):  # standard error is not a file
        # a library that crashes takes the process with it: say at least of what and where
        faulthandler.enable(all_threads=False)
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_told)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
    try:
        command(arguments)
    except SamfeatError as error:
        typer.echo(f"error: {error}", err=True)
        _end(1)
    except Exception as error:
        why = cause_of(error)  # of the machine: a full disk, too little memory
        if why is None:
            raise
        where = getattr(error, "filename", None) or "samfeat"
        typer.echo(f"error: {where}: {why}", err=True)
        _end(1)
    except (KeyboardInterrupt, SystemExit) as ended:
        if isinstance(ended, SystemExit) and ended.code != _INTERRUPTED:
            raise
        typer.echo("stopped; give the same command again", err=True)
        _end(_INTERRUPTED)


def _end(code: int) -> NoReturn:
    if at_work():  # taken down with its libraries, the process would be aborted
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    sys.exit(code)


def _told(record: logging.LogRecord) -> bool:
    """Of other libraries nothing but warnings: PyTorch's exporter tells of every node."""
    return record.levelno >= logging.WARNING or record.name.partition(".")[0] == "samfeat_hloc"


def run_program(main: Callable[..., None]) -> None:
    """Run a function as a program whose options are its parameters, with :func:`run`'s errors."""
    program = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    program.command(cls=PlainCommand)(main)
    run(program)
