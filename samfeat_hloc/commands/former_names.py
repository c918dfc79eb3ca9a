"""Other names of commands and options: what they were called before, and a few second names.

They are understood and not shown. docs/vocabulary.md has the names that are shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

FIRST = ""
"""In place of an option's name: its value is the command's first argument."""

COMMANDS: Mapping[tuple[str, ...], str] = {}
"""By the command's path, as ("map", "build"): the name that its last word has now."""

OPTIONS: Mapping[tuple[str, ...], Mapping[str, str]] = {
    ("run",): {
        "--conf": "--preset",
        "--dataset": FIRST,
        "--features": "--feature-type",
    },
}
"""By the command's path: the name that an option has now, or :data:`FIRST`."""

SECOND_NAMES = {("run", "--dataset")}
"""Path and option of those that are no former names: nothing is said about them."""


def present_options(path: tuple[str, ...], arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments of a command with the names that options have now, and a note on each other.

    Arguments:
        path: of the command, as ("map", "build").
        arguments: what follows it on the command line. From "--" on they are left as they are.
    """
    names = OPTIONS.get(path, {})
    first: list[str] = []
    present: list[str] = []
    notes: list[str] = []
    left = list(arguments)
    while left:
        word = left.pop(0)
        if word == "--":
            present += [word, *left]
            break
        option, equals, value = word.partition("=")
        if option not in names:
            present.append(word)
            continue
        name = names[option]
        if name:
            present.append(f"{name}={value}" if equals else name)
        elif equals:
            first.append(value)
        elif left:
            first.append(left.pop(0))
        else:
            present.append(word)  # its value is missing, which is said as of any other option
        if (*path, option) not in SECOND_NAMES:
            notes.append(
                f"{option} is called {name} now" if name else f"{option} can be left out now"
            )
    return [*first, *present], notes
