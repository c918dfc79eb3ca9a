"""The command line's applications: former names are understood, and help shows plain types."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from ..colmap.library_version import check_version
from ..errors import SamfeatError
from .former_names import COMMANDS, present_options

_FOR_ANY_PYCOLMAP = ("doctor", "version")


def _with_plain_types(parameters: list[Any], ctx: Any) -> list[Any]:
    """A flag has no type; what can be repeated or is bounded that of a value, in place of
    ``<list[Path]>`` and ``<int range>``."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
        if hasattr(parameter, "display_type"):  # older typer writes PATH and TEXT
            shown = re.fullmatch(r"<list\[(\w+)\]>|<(\w+) range>", parameter.display_type(ctx))
            if shown is not None:
                plain = f"<{(shown[1] or shown[2]).lower()}>"
                parameter.display_type = lambda _, plain=plain: plain
    return parameters


def _check_paths(command: Any, parameters: list[Any], arguments: list[str]) -> None:
    """Refuse an empty path, as ``"$PHOTOS"`` is where nobody has set it: Python takes it for the
    folder where one is.

    Raises:
        SamfeatError: it names the option or the argument.
    """
    named = {option: parameter for parameter in parameters for option in parameter.opts}
    positional = [p for p in parameters if p.param_type_name == "argument"]
    for place, argument in enumerate(arguments):
        option, given, value = argument.partition("=")
        if argument == "":
            option = arguments[place - 1] if place else ""
        elif not given or value:
            continue
        meant = named.get(option)
        if argument == "" and (meant is None or getattr(meant, "is_flag", False)):
            meant = positional[0] if positional else None
        if meant is not None and "Path" in str(get_type_hints(command.callback)[meant.name]):
            shown = meant.metavar if meant in positional else option
            raise SamfeatError(shown, "an empty path is given", "write . for this folder")


class PlainCommand(TyperCommand):
    """A command whose help is wrapped at the terminal's width alone, not where its docstring is."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.help:
            self.help = re.sub(r"(?<=\S)\n(?=\S)", " ", self.help)


class Command(PlainCommand):
    """A command with plain types in its help, which asks for the right pycolmap."""

    def invoke(self, ctx: Any) -> Any:
        if ctx.info_name not in _FOR_ANY_PYCOLMAP:
            check_version()
        return super().invoke(ctx)

    def get_params(self, ctx: Any) -> list[Any]:
        return _with_plain_types(super().get_params(ctx), ctx)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _check_paths(self, self.get_params(ctx), args)
        return super().parse_args(ctx, args)


class Group(TyperGroup):
    """A group that understands former names of its commands and of their options."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _with_plain_types(super().get_params(ctx), ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        path: tuple[str, ...] = ()
        within = ctx
        while within.parent is not None:
            path = (within.info_name, *path)
            within = within.parent
        name = COMMANDS.get((*path, args[0]), args[0])
        if name != args[0]:
            typer.echo(f"note: {args[0]} is called {name} now", err=True)
        found, command, rest = super().resolve_command(ctx, [name, *args[1:]])
        rest, notes = present_options((*path, name), rest)
        for note in notes:
            typer.echo(f"note: {note}", err=True)
        return found, command, rest


class Application(typer.Typer):
    """A typer application of such commands and groups; errors are left to :func:`..cli.run`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            cls=Group, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
            **options,
        )  # fmt: skip

    def command(self, name: str | None = None, **options: Any) -> Callable[[Any], Any]:  # type: ignore[override]
        return super().command(name, **{"cls": Command, **options})


def add_commands(
    app: typer.Typer, commands: Mapping[str, Callable[..., None]], panel: str | None = None
) -> None:
    """Add functions as commands of these names, in one panel of the help."""
    for name, function in commands.items():
        app.command(name, rich_help_panel=panel)(function)


def group(app: typer.Typer, name: str, purpose: str, panel: str) -> typer.Typer:
    """The sub-application of that name, shared with whoever has added it before."""
    for known in app.registered_groups:
        if known.name == name and known.typer_instance is not None:
            return known.typer_instance
    added = Application(help=purpose)
    app.add_typer(added, name=name, rich_help_panel=panel)
    return added
