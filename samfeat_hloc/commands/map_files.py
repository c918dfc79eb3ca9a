"""``samfeat map build`` and ``samfeat map export``: a map comes in, a map goes out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import SamfeatError
from .options import (
    DEFAULT_PRESET,
    Device,
    KnownCamera,
    KnownCameras,
    KnownPoses,
    LocalWorkers,
    MaskFolder,
    OfficialWeights,
    Preset,
    SavedMap,
    Weights,
)

if TYPE_CHECKING:
    from ..colmap.cameras import Camera

_Output = Annotated[Path, typer.Option("--output", help="Folder of the saved map to write.")]


def register(maps: typer.Typer) -> None:
    """Add the commands to the group ``samfeat map``."""
    maps.command("build")(_build)
    maps.command("export")(_export)


def _build(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="[SOURCE]",
            help="Outputs folder of `samfeat reconstruct` or `samfeat run`; or a COLMAP model, "
            "with --images. Left out with --poses.",
            show_default=False,
        ),
    ] = None,
    *,
    output: _Output,
    images: Annotated[
        Path | None, typer.Option(help="Folder of the images of a COLMAP model or of --poses.")
    ] = None,
    model: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Which of several models that `samfeat reconstruct` left.",
            show_default="0, the largest",
        ),
    ] = None,
    poses: KnownPoses = None,
    listed: KnownCameras = None,
    camera: KnownCamera = None,
    num_matched: Annotated[int, typer.Option(help="Images matched with each posed image.")] = 20,
    preset: Preset = DEFAULT_PRESET,
    weights: Weights = None,
    official_weights: OfficialWeights = False,
    masks: MaskFolder = None,
    workers: LocalWorkers = 2,
    device: Device = None,
    compact: Annotated[
        bool,
        typer.Option(
            "--compact",
            help="Leave out keypoints without a point: a map several times smaller, whose poses "
            "are a little less exact.",
        ),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a saved map.")] = False,
) -> None:
    """Save a map in one folder, for `samfeat localize`.

    Of a COLMAP model, or of poses, features are extracted and points triangulated at the known
    poses first. An interrupted build goes on when the same command is given again.
    """
    from ..colmap.model import is_model
    from ..maps import building
    from ..maps.sources import sources_in

    building.check_output(output, overwrite=overwrite)
    stages = output.with_name(f"{output.name}.stages")
    if poses is not None or (source is not None and is_model(source)):
        from ..pipelines import posed

        if images is None:
            raise SamfeatError("--images", "not given", "name the folder that the photos are in")
        if model is not None:
            raise SamfeatError("--model", "chooses among models of reconstruct", "leave it out")
        if poses is not None and source is not None:
            raise SamfeatError("--poses", f"given beside {source}", "give one of them")
        options = posed.PosedOptions(
            preset, weights, official_weights, num_matched, workers, device, masks
        )
        if poses is not None:
            cameras = _cameras(poses, listed, camera)
            posed.begin(stages, poses, cameras, options)
            reference = posed.model_of_lists(poses, cameras, stages / "reference")
        else:
            assert source is not None
            for option, value in (("--cameras", listed), ("--camera", camera)):
                if value is not None:
                    raise SamfeatError(
                        option,
                        f"decides nothing here: {source} has the cameras",
                        "leave it out, or give --poses in place of the model",
                    )
            posed.begin(stages, source, None, options)
            reference = source
        found = posed.run(reference, images, stages, options)
    elif source is None:
        raise SamfeatError("SOURCE", "not given", "give outputs, a COLMAP model, or --poses")
    else:
        given = {
            "--masks": masks is not None, "--weights": weights is not None,
            "--official-weights": official_weights, "--preset": preset != DEFAULT_PRESET,
            "--images": images is not None, "--cameras": listed is not None,
            "--camera": camera is not None,
        }  # fmt: skip
        if useless := [option for option, is_given in given.items() if is_given]:
            raise SamfeatError(
                useless[0],
                f"decides nothing here: {source} has features and a model already",
                "give it to the command that makes them",
            )
        found = sources_in(source, model)
    saved = building.build(found, output, compact=compact, overwrite=overwrite)
    if found.features.parent == stages:
        shutil.rmtree(stages, ignore_errors=True)
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    typer.echo(
        f"{output}: {len(saved.images)} images, {len(saved.xyz)} points, "
        f"{saved.num_observations} observations, {size / 2**20:.1f} MB"
    )


def _cameras(poses: Path, listed: Path | None, camera: str | None) -> dict[str, Camera]:
    """Intrinsics by image name, of a list or of one camera for all."""
    from ..colmap.intrinsics import camera_from_text
    from ..colmap.poses import read_poses
    from ..datasets.queries import read_queries

    if listed is not None and camera is not None:
        raise SamfeatError("--camera", "given beside --cameras", "give one of them")
    if listed is None and camera is None:
        raise SamfeatError(
            "--poses", "needs intrinsics", "give --cameras LIST, or one --camera for all"
        )
    if listed is not None:
        return {query.name: query.camera for query in read_queries(listed, "")}
    assert camera is not None
    return dict.fromkeys(read_poses(poses), camera_from_text(camera))


def _export(
    map_dir: SavedMap,
    output: Annotated[Path, typer.Option(help="Folder of the COLMAP model, or file, to write.")],
    to: Annotated[str, typer.Option(help="colmap, ply (a point cloud), or nerfstudio.")] = "colmap",
) -> None:
    """Write a saved map for another program."""
    from ..maps import saved_map
    from ..maps.export import export

    typer.echo(f"written: {export(saved_map.read(map_dir), to, output)}")
