"""``samfeat teach``, ``samfeat probe`` and ``samfeat label``: what training can learn from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .application import add_commands
from .options import TRAINING, Device, Images, JsonOutput, Overwrite

_Output = Annotated[Path, typer.Option("--output", help="The HDF5 file to write.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    add_commands(app, {"teach": _teach, "probe": _probe, "label": _label}, TRAINING)


def _teach(
    images: Images,
    teacher: Annotated[
        str,
        typer.Option(
            help="sam, dinov2, sam+dinov2, labels (your own label maps), regions (needs no "
            "download), or one that another package brings."
        ),
    ],
    output: _Output,
    weights: Annotated[
        Path | None, typer.Option(help="The teacher's checkpoint; SAM's for sam+dinov2.")
    ] = None,
    dinov2_weights: Annotated[
        Path | None, typer.Option(help="DINOv2's checkpoint for sam+dinov2.")
    ] = None,
    dinov2_model: Annotated[
        str, typer.Option(help="timm's name of the DINOv2 to download where no file is given.")
    ] = "vit_base_patch14_dinov2.lvd142m",
    label_maps: Annotated[
        Path | None, typer.Option(help="Folder of label maps, for the teacher labels.")
    ] = None,
    points_per_side: Annotated[
        int, typer.Option(min=1, help="SAM is prompted with a grid of this many points per side.")
    ] = 32,
    skip_unlabelled: Annotated[
        bool, typer.Option("--skip-unlabelled", help="Leave out photos without a label map.")
    ] = False,
    raw: Annotated[
        bool,
        typer.Option(
            "--raw", help="Keep all channels of the embeddings (float16; with SAM, 2 MB per photo)."
        ),
    ] = False,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Photos in SAM's encoder at once.")
    ] = None,
    device: Device = None,
    overwrite: Overwrite = False,
) -> None:
    """Run a teacher such as SAM on photos once and keep what it sees in a cache, for training.

    An interrupted run goes on when the same command is given again. Several GPUs share the work.
    """
    from ..teachers import teach
    from ..teachers.cache import TeacherCache
    from ..teachers.registry import TeacherOptions

    options = TeacherOptions(
        weights=weights, dinov2_weights=dinov2_weights, label_dir=label_maps,
        dinov2_model=dinov2_model, points_per_side=points_per_side,
    )  # fmt: skip
    teach.main(images, output, teacher=teacher, options=options, raw=raw, device=device,
               batch_size=batch_size, overwrite=overwrite,
               skip_unlabelled=skip_unlabelled)  # fmt: skip
    typer.echo(f"{output}: {teach.summary(TeacherCache(output))}")


def _probe(
    cache: Annotated[
        Path, typer.Argument(metavar="CACHE", help="A teacher's cache, of `samfeat teach`.")
    ],
    label_maps: Annotated[Path, typer.Option(help="Folder of label maps.")],
    neighbours: Annotated[
        int, typer.Option(min=1, help="Number of nearest neighbours that vote.")
    ] = 5,
    output: JsonOutput = None,
) -> None:
    """Measure how well a teacher's embedding tells labelled regions apart.

    The label of each region is predicted from its nearest neighbours among the regions of other
    photos.
    """
    from ..evaluation.record import measurement
    from ..files.atomic import write_atomically
    from ..teachers.cache import TeacherCache
    from ..teachers.probe import probe

    opened = TeacherCache(cache)
    result = probe(opened, label_maps, neighbours=neighbours)
    typer.echo(f"{opened.teacher}: {result.line()}")
    if output is not None:
        content = {
            "teacher": opened.teacher, "weights_sha256": opened.weights_sha256, **result.as_json(),
            **measurement({"cache": cache, "labels": label_maps, "neighbours": neighbours}),
        }  # fmt: skip
        write_atomically(output, json.dumps(content, indent=2) + "\n")


def _label(
    images: Images,
    output: _Output,
    detector: Annotated[
        str,
        typer.Option(
            help="Detector that gives keypoints: corners, dog, superpoint, aliked, disk or samfeat."
        ),
    ] = "corners",
    weights: Annotated[Path | None, typer.Option(help="The detector's checkpoint.")] = None,
    views: Annotated[
        int, typer.Option(min=1, help="Warped views of each photo to detect in.")
    ] = 48,
    max_keypoints: Annotated[int, typer.Option(min=1, help="Keypoints per photo at most.")] = 1024,
    resize: Annotated[
        int, typer.Option(min=64, help="Longer side in pixels when detecting.")
    ] = 480,
    device: Device = None,
    overwrite: Overwrite = False,
) -> None:
    """Label keypoints on photos by homographic adaptation of a detector, for training.

    A keypoint is a point that the detector finds in most of the photo's warped views.
    """
    from ..training import label

    options = label.LabelOptions(detector, views=views, max_keypoints=max_keypoints,
                                 longest=resize)  # fmt: skip
    label.main(images, output, options, weights=weights, device=device, overwrite=overwrite)
    typer.echo(f"{output}: {label.summary(output)}")
