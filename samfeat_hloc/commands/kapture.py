"""``samfeat kapture``: another tool's results in hloc's files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import SamfeatError
from .options import STAGES, Outputs


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("kapture", rich_help_panel=STAGES)(_kapture)


def _kapture(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A kapture folder.")],
    outputs: Outputs,
) -> None:
    """Write a kapture folder's poses, features, matches and pairs as hloc's files.

    What the folder does not have is left out.
    `samfeat eval localization OUTPUTS/poses.txt` measures the poses.
    """
    from ..colmap.poses import write_poses
    from ..datasets.kapture import read_kapture, write_features, write_matches
    from ..files.atomic import work_folder, write_atomically

    if outputs.exists() and any(outputs.iterdir()):
        raise SamfeatError(outputs, "there is something in this folder", "name another folder")
    content = read_kapture(folder)
    outputs.mkdir(parents=True, exist_ok=True)
    if content.poses:
        path = write_poses(outputs / "poses.txt", content.poses)
        typer.echo(f"{path}: {len(content.poses)} of {len(content.images)} images")
    with work_folder(outputs / "features.h5") as work:
        if (folder / "reconstruction" / "keypoints").is_dir():
            count = write_features(content, work / "features.h5")
            (work / "features.h5").replace(outputs / "features.h5")
            typer.echo(f"{outputs / 'features.h5'}: {count} of {len(content.images)} images")
        if pairs := write_matches(content, work / "matches.h5"):
            (work / "matches.h5").replace(outputs / "matches.h5")
            write_atomically(outputs / "pairs.txt", "".join(f"{a} {b}\n" for a, b in pairs))
            typer.echo(f"{outputs / 'matches.h5'}: {len(pairs)} pairs, listed in pairs.txt")
