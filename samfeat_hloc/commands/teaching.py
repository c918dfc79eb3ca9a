"""``samfeat teach``, ``samfeat probe`` and ``samfeat label``: what training can learn from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

_Images = Annotated[Path, typer.Option("--images", help="Folder of photos.")]
_Out = Annotated[Path, typer.Option("--out", help="The HDF5 file to write.")]
_Device = Annotated[
    str | None, typer.Option("--device", help="Such as cuda:0 or cpu; all GPUs by default.")
]
_Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what was made differently.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("teach")(_teach)
    app.command("probe")(_probe)
    app.command("label")(_label)


def _teach(
    images: _Images,
    teacher: Annotated[
        str,
        typer.Option("--teacher", help="regions, labels, sam, dinov2 or sam+dinov2."),
    ],
    out: _Out,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Checkpoint of SAM, or of DINOv2 alone.")
    ] = None,
    dinov2_weights: Annotated[
        Path | None, typer.Option("--dinov2-weights", help="DINOv2's, in sam+dinov2.")
    ] = None,
    dinov2_model: Annotated[
        str, typer.Option("--dinov2-model", help="timm's name, to download where no file is given.")
    ] = "vit_base_patch14_dinov2.lvd142m",
    label_maps: Annotated[
        Path | None, typer.Option("--label-maps", help="Folder of the teacher labels' maps.")
    ] = None,
    points_per_side: Annotated[
        int, typer.Option("--points-per-side", min=1, help="Grid of SAM's mask generator.")
    ] = 32,
    raw: Annotated[
        bool, typer.Option("--raw", help="Keep whole embeddings in float16: 2 MB a photo for SAM.")
    ] = False,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Photos through SAM at once.")
    ] = None,
    device: _Device = None,
    overwrite: _Overwrite = False,
) -> None:
    """Let a teacher look at photos and keep what it sees in a cache, for training.

    Goes on where an interrupted run left off. Several GPUs share the work.
    """
    from ..teachers import teach
    from ..teachers.cache import TeacherCache
    from ..teachers.registry import TeacherOptions

    options = TeacherOptions(
        weights=weights, dinov2_weights=dinov2_weights, label_dir=label_maps,
        dinov2_model=dinov2_model, points_per_side=points_per_side,
    )  # fmt: skip
    teach.main(images, out, teacher=teacher, options=options, raw=raw, device=device,
               batch_size=batch_size, overwrite=overwrite)  # fmt: skip
    typer.echo(f"{out}: {teach.summary(TeacherCache(out))}")


def _probe(
    cache: Annotated[Path, typer.Argument(help="A teacher's cache.")],
    labels: Annotated[Path, typer.Option("--labels", help="Folder of label maps.")],
    neighbours: Annotated[int, typer.Option("--neighbours", min=1, help="That vote.")] = 5,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file too.")
    ] = None,
) -> None:
    """Measure how well a teacher's embedding tells labelled regions apart.

    Each region's label is guessed by its nearest regions in other photos.
    """
    from ..evaluation.record import measurement
    from ..files.textlines import write_atomically
    from ..teachers.cache import TeacherCache
    from ..teachers.probe import probe

    opened = TeacherCache(cache)
    result = probe(opened, labels, neighbours=neighbours)
    typer.echo(f"{opened.teacher}: {result.line()}")
    if json_file is not None:
        content = {
            "teacher": opened.teacher, "weights_sha256": opened.weights_sha256, **result.as_json(),
            **measurement({"cache": cache, "labels": labels, "neighbours": neighbours}),
        }  # fmt: skip
        write_atomically(json_file, json.dumps(content, indent=2) + "\n")


def _label(
    images: _Images,
    out: _Out,
    detector: Annotated[
        str,
        typer.Option("--detector", help="corners, dog, superpoint, aliked, disk or samfeat."),
    ] = "corners",
    weights: Annotated[
        Path | None, typer.Option("--weights", help="The detector's checkpoint.")
    ] = None,
    views: Annotated[
        int, typer.Option("--views", min=1, help="Random homographies of each photo.")
    ] = 48,
    max_keypoints: Annotated[
        int, typer.Option("--max-keypoints", min=1, help="The best so many a photo.")
    ] = 1024,
    longest: Annotated[
        int, typer.Option("--longest", min=64, help="Longer side at which to detect, in pixels.")
    ] = 480,
    device: _Device = None,
    overwrite: _Overwrite = False,
) -> None:
    """Label the keypoints of photos by homographic adaptation of a detector, for training.

    A keypoint is a place that the detector finds in most views of the photo.
    """
    from ..training import label

    options = label.LabelOptions(detector, views=views, max_keypoints=max_keypoints,
                                 longest=longest)  # fmt: skip
    label.main(images, out, options, weights=weights, device=device, overwrite=overwrite)
    typer.echo(f"{out}: {label.summary(out)}")
