"""Lists of image pairs, ``name0 name1`` a line, as hloc has them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import SamfeatError
from .images import check_name
from .textlines import data_lines


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """The pairs of a pairs file, "name0 name1" a line, in their order.

    Raises:
        SamfeatError: a missing or empty file, a line that is not two names (``file:line``), or
            a name that :func:`samfeat_hloc.files.images.check_name` refuses.
    """
    pairs = []
    known: dict[str, str] = {}  # a name is one string, however many pairs it is in
    for number, tokens in data_lines(path):
        if len(tokens) != 2:
            raise SamfeatError(
                f"{path}:{number}",
                f"{len(tokens)} words where two image names are needed",
                "write 'name0 name1' (names have no white space)",
            )
        try:
            name0, name1 = (known.get(t) or known.setdefault(t, check_name(t)) for t in tokens)
        except SamfeatError as error:
            raise SamfeatError(f"{path}:{number}", error) from None
        pairs.append((name0, name1))
    if not pairs:
        raise SamfeatError(path, "it has no pairs", "check the path, or list the pairs again")
    return pairs


def pairs_text(pairs: Iterable[tuple[str, str]]) -> str:
    """The content of a pairs file."""
    return "".join(f"{name0} {name1}\n" for name0, name1 in pairs)


def unique_pairs(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Each pair once, as it first appears; its reverse counts as the same pair."""
    seen: dict[tuple[str, str], None] = {}
    for pair in pairs:
        if pair[::-1] not in seen:
            seen[pair] = None
    return list(seen)
