"""Which files of a folder are images, and which are left out and why.

Nothing is passed over in silence: a photo that is not taken is named, in a warning.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import SamfeatError, some_of
from .images import EXTENSIONS, UNREAD, check_name
from .signatures import VIDEO, signature

logger = logging.getLogger(__name__)

_NAMED = 20  # in one line of an error or a warning


@dataclass(frozen=True)
class ImageFolder:
    """What a folder holds.

    names: of its images, relative to it with ``/``, sorted.
    left_out: photos and videos that are not taken, and folders that are not looked into, with the
        reason.
    """

    names: list[str]
    left_out: dict[str, str]

    @property
    def account(self) -> str:
        """How many are left out of how many and why, in a line; "" where none is."""
        if not self.left_out:
            return ""
        told = [f"{name} ({why})" for name, why in list(self.left_out.items())[:_NAMED]]
        more = len(self.left_out) - len(told)
        return (
            f"{len(self.names)} images are taken, {len(self.left_out)} left out: {', '.join(told)}"
            + (f" and {more} more" if more else "")
        )


def look(folder: Path) -> ImageFolder:
    """All images below a folder, links followed; a folder that is met twice is taken once.

    Files and folders whose name starts with a dot are left out.

    Raises:
        SamfeatError: no such folder, or one below it that may not be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise SamfeatError(folder, "no such image folder", "check the path")
    names: list[str] = []
    left_out: dict[str, str] = {}
    seen: dict[tuple[int, int], str] = {}
    waiting: list[tuple[Path, str]] = [(folder, "")]
    links: list[tuple[Path, str]] = []
    while waiting or links:  # links last: what is met twice has its own name then
        place, prefix = waiting.pop() if waiting else links.pop(0)
        with _readable(place):
            status = place.stat()
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        twin = seen.setdefault((status.st_dev, status.st_ino), prefix or ".")
        if twin != (prefix or "."):
            left_out[prefix] = f"the same folder as {twin}"
            continue
        for entry in entries:
            name = prefix + entry.name
            if entry.name.startswith("."):
                if why := _hidden(entry):
                    left_out[f"{name}/" if _is_dir(entry) else name] = why
            elif _is_dir(entry):
                (links if entry.is_symlink() else waiting).append((Path(entry.path), f"{name}/"))
            elif why := _why_not(entry):
                left_out[name] = why
            elif _ending(entry.name) in EXTENSIONS:
                names.append(name)
    return ImageFolder(sorted(names), dict(sorted(left_out.items())))


def list_images(folder: Path, *, for_lists: bool = True) -> list[str]:
    """Names of all images below ``folder``, relative to it with ``/``, sorted; see `look`.

    What is left out is told in a warning.

    Arguments:
        for_lists: the names go into text lists of images, which not every name fits.

    Raises:
        SamfeatError: as `look`; no image in it; names that ``check_name`` refuses, where they go
            into lists.
    """
    found = look(folder)
    if not found.names:
        mend = "check the path"
        if found.left_out:
            name, why = next(iter(found.left_out.items()))
            mend = f"{len(found.left_out)} are left out, as {name}: {why}"
        raise SamfeatError(folder, "there is no image in this folder", mend)
    if for_lists and (unfit := unfit_names(found.names)):
        first = next(iter(unfit.values()))
        problem = first.problem
        if len(unfit) > 1:
            others = some_of([repr(name) for name in unfit][1:])
            problem += f"; {len(unfit)} of {len(found.names)} names do not fit, {others} too"
            problem += " (`samfeat check` lists all)" if len(unfit) > 4 else ""
        raise SamfeatError(folder, f"{first.subject}: {problem}", first.mend)
    if found.left_out:
        logger.warning("%s: %s (`samfeat check` lists all)", folder, found.account)
    return found.names


def given_images(paths: Sequence[Path], *, for_lists: bool = True) -> dict[str, Path]:
    """The images that are meant by paths of images and of folders, by name.

    The name of an image in a folder that is given is its path below that folder, that of an image
    that is given is its file name. One that is given twice is taken once. A file is not looked
    into.

    Arguments:
        for_lists: as in `list_images`.

    Raises:
        SamfeatError: as `list_images`; no such file; two images of one name.
    """
    found: dict[str, Path] = {}
    seen: set[Path] = set()
    for given in paths:
        if given.is_dir():
            named = {name: given / name for name in list_images(given, for_lists=for_lists)}
        elif given.exists():
            named = {check_name(given.name) if for_lists else given.name: given}
        else:
            raise SamfeatError(given, "no such photo or folder", "check the path")
        for name, path in named.items():
            if (place := path.resolve()) in seen:
                continue
            seen.add(place)
            if name in found and not for_lists:
                name = str(path)
            if name in found:
                raise SamfeatError(
                    path,
                    f"{found[name]} has the name {name} too",
                    "give one folder that holds both",
                )
            found[name] = path
    return found


def unfit_names(names: Sequence[str]) -> dict[str, SamfeatError]:
    """The names that `check_name` refuses, and what it says."""
    unfit = {}
    for name in names:
        try:
            check_name(name)
        except SamfeatError as error:
            unfit[name] = error
    return unfit


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SamfeatError(
            folder, f"this folder cannot be read ({error.strerror})", "change its mode"
        ) from None


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122  (a string: millions of names)


def _why_not(entry: os.DirEntry[str]) -> str:
    """Why a photo is not taken; "" for one that is, and for what is no photo."""
    ending = _ending(entry.name)
    if entry.is_symlink() and not os.path.exists(entry.path):  # noqa: PTH110
        return "a link to nothing" if ending in EXTENSIONS or ending in UNREAD else ""
    if not entry.is_file():
        return "not a file" if ending in EXTENSIONS or ending in UNREAD else ""
    if ending in EXTENSIONS:
        return ""
    if ending in UNREAD:
        return UNREAD[ending]
    found = signature(Path(entry.path))
    if found == VIDEO:
        return f"{found.what}; {found.mend}"
    if found is None or not found.photo:
        return ""
    if found.photo in UNREAD:
        return UNREAD[found.photo]
    return f"{found.what} by its content; rename it to end in {found.photo}"


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _hidden(entry: os.DirEntry[str]) -> str:
    """Why photos of a name that starts with a dot are not taken; "" where there are none."""
    if entry.name.startswith("._"):  # what macOS leaves beside files on other systems' disks
        return ""
    if not _is_dir(entry):
        return "hidden by its dot" if _ending(entry.name) in EXTENSIONS else ""
    within = (name for _, _, files in os.walk(entry.path) for name in files)
    if any(_ending(name) in EXTENSIONS and not name.startswith("._") for name in within):
        return "a folder hidden by its dot"
    return ""
