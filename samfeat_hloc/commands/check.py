"""``samfeat check``: are all photos of a folder there and whole, before work on them begins."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import SamfeatError
from .options import OWN_PHOTOS, LocalWorkers


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("check", rich_help_panel=OWN_PHOTOS)(_check)


def _check(
    images: Annotated[Path, typer.Argument(metavar="PHOTOS", help="Folder of photos.")],
    workers: LocalWorkers = 2,
) -> None:
    """Read every photo of a folder and list those that are broken, left out, or badly named.

    Files that hold several images, of which only the first is used, are listed too.
    """
    from ..files.image_folders import look, unfit_names
    from ..files.images import images_in
    from ..parallel.image_checks import broken_images

    found = look(images)
    broken = broken_images(images, found.names, decode=True, workers=workers)
    unfit = unfit_names(found.names)
    for name, error in broken.items():
        typer.echo(f"broken    {name}: {error.problem}; {error.mend}")
    for name, error in unfit.items():
        typer.echo(f"name      {name!r}: {error.problem}; {error.mend}")
    for name in found.names:
        if name not in broken and (count := images_in(images / name)) > 1:
            typer.echo(f"several   {name}: it holds {count} images, and the first is used")
    for name, why in found.left_out.items():
        typer.echo(f"left out  {name} ({why})")
    bad = len(broken.keys() | unfit.keys())
    typer.echo(
        f"{images}: {len(found.names) - bad} of {len(found.names) + len(found.left_out)} photos "
        f"can be used; {len(broken)} broken, {len(unfit)} with names that do not fit, "
        f"{len(found.left_out)} left out"
    )
    if bad:
        raise SamfeatError(
            images,
            f"{bad} of {len(found.names)} photos cannot be used",
            "mend those, or give a folder without them",
        )
    if not found.names:
        raise SamfeatError(images, "there is no image in this folder", "check the path")
