"""Other names of commands and options: what they were called before, and a few second names.

They are understood and not shown. docs/vocabulary.md has the names that are shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

FIRST = ""
"""In place of an option's name: its value is the command's first argument."""

COMMANDS: Mapping[tuple[str, ...], str] = {
    ("mapping",): "triangulate",
    ("localization",): "poses",
}
"""By the command's path, as ("map", "build"): the name that its last word has now."""

_FORMER: Mapping[tuple[str, ...], Mapping[str, str]] = {
    ("run",): {"--conf": "--preset", "--features": "--feature-type"},
    ("reconstruct",): {"--conf": "--preset", "--method": "--feature-type",
                       "--single-camera": "--camera-mode=single"},
    ("localize",): {"--image": FIRST},
    ("map", "build"): {"--outputs": FIRST, "--map": "--output"},
    ("map", "add"): {"--map": FIRST, "--list": "--queries"},
    ("map", "remove"): {"--map": FIRST},
    ("map", "info"): {"--map": FIRST},
    ("features",): {"--config": "--preset"},
    ("pairs", "covisibility"): {"--model": "--reference-model", "--num-matched": "--num-covisible"},
    ("pairs", "retrieval"): {
        "--descriptors": "--global-descriptors", "--num-matched": "--num-retrieved",
    },
    ("triangulate",): {"--image-dir": "--images"},
    ("eval", "localization"): {"--json": "--output"},
    ("eval", "reconstruction"): {"--json": "--output"},
    ("eval", "hpatches"): {
        "--root": "--dataset", "--method": "--feature-type", "--official": "--official-weights",
        "--ransac-threshold": "--max-error",
    },
    ("eval", "pairs"): {
        "--method": "--feature-type", "--official": "--official-weights",
        "--ransac-threshold": "--max-error",
    },
    ("viz", "keypoints"): {"--official": "--official-weights"},
    ("viz", "matches"): {"--official": "--official-weights"},
    ("viz", "relations"): {"--official": "--official-weights"},
    ("report",): {"--points": "--max-points", "--pictures": "--max-pictures"},
    ("teach",): {"--out": "--output"},
    ("probe",): {"--labels": "--label-maps", "--json": "--output"},
    ("label",): {"--out": "--output", "--longest": "--resize"},
    ("whiten",): {"--out": "--output", "--pairs": "--num-pairs"},
    ("project",): {"--out": "--output"},
}  # fmt: skip

_SECOND: Mapping[tuple[str, ...], Mapping[str, str]] = {
    ("run",): {"--dataset": FIRST},
    ("reconstruct",): {"--images": FIRST},
    ("map", "build"): {"--out": "--output"},
    ("train",): {"--config": "--recipe"},
    ("ablate",): {"--config": "--recipe"},
}
"""No former names: nothing is said about them."""


def other_names(path: tuple[str, ...]) -> dict[str, str]:
    """What an option of a command is called now, or :data:`FIRST`, by its other names."""
    return {**_FORMER.get(path, {}), **_SECOND.get(path, {})}


def present_options(path: tuple[str, ...], arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments of a command with the names that options have now, and a note on each other.

    Arguments:
        path: of the command, as ("map", "build").
        arguments: what follows it on the command line. From "--" on they are left as they are.
    """
    names = other_names(path)
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
        if option in _FORMER.get(path, {}):
            notes.append(
                f"{option} is called {name} now" if name else f"{option} can be left out now"
            )
    return [*first, *present], notes
