"""``samfeat viz keypoints``, ``samfeat viz matches`` and ``samfeat viz relations``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .application import add_commands, group
from .measured_features import extract_options
from .options import LOOK, Device, OfficialWeights, Weights

if TYPE_CHECKING:
    from ..feature.network import SAMFeat
    from ..feature.options import ExtractOptions

_Output = Annotated[
    Path, typer.Option("--output", help="The picture to write: .png, .pdf or .svg.")
]
_MaxKeypoints = Annotated[
    int, typer.Option("--max-keypoints", min=1, help="Keypoints per image at most.")
]
_Resize = Annotated[
    int,
    typer.Option("--resize", min=0, help="Longer side in pixels at most; 0 for the photo's own."),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the application's ``viz`` group."""
    pictures = group(app, "viz", "Draw keypoints, matches, and what a teacher sees.", LOOK)
    add_commands(pictures, {"keypoints": _keypoints, "matches": _matches, "relations": _relations})


def _keypoints(
    image: Annotated[Path, typer.Argument(metavar="PHOTO", help="A photo.")],
    output: _Output,
    weights: Weights = None,
    official_weights: OfficialWeights = False,
    max_keypoints: _MaxKeypoints = 1024,
    resize: _Resize = 1024,
    device: Device = None,
) -> None:
    """Draw keypoints over a photo and over the network's edge and attention maps."""
    from ..evaluation import curves
    from ..feature.extraction import extract_batch
    from ..files.images import read_image
    from ..pictures import pairs

    pixels = read_image(image)
    model, options = _model(weights, official_weights, max_keypoints, resize, device)
    found = extract_batch(model, [pixels], options)[0]
    figure = pairs.keypoints_figure(
        pixels, found["keypoints"], *pairs.guidance_maps(model, pixels, options), image.name
    )
    typer.echo(f"written: {curves.save(figure, output)}")


def _matches(
    image0: Annotated[Path, typer.Argument(metavar="PHOTO0", help="A photo.")],
    image1: Annotated[Path, typer.Argument(metavar="PHOTO1", help="Another photo.")],
    output: _Output,
    homography: Annotated[
        Path | None, typer.Option(help="Text file of the 3x3 matrix from PHOTO0 to PHOTO1.")
    ] = None,
    features: Annotated[
        Path | None, typer.Option(help="Match the features of this file, extract none.")
    ] = None,
    image_dir: Annotated[
        Path | None,
        typer.Option("--images", help="Folder of images that the names in --features are below."),
    ] = None,
    weights: Weights = None,
    official_weights: OfficialWeights = False,
    max_keypoints: _MaxKeypoints = 1024,
    resize: _Resize = 1024,
    lines: Annotated[int, typer.Option(min=1, help="Matches drawn at most.")] = 300,
    device: Device = None,
) -> None:
    """Draw the matches of two photos; with --homography, right and wrong ones in two colours."""
    from ..evaluation import curves
    from ..evaluation.homography import read_homography
    from ..files.images import read_image
    from ..pictures import pairs

    matrix = None if homography is None else read_homography(homography)
    pixels = (read_image(image0), read_image(image1))
    if features is not None:
        found = _of_file(features, image_dir, (image0, image1), pixels, max_keypoints)
    else:
        found = _extracted(
            pixels, *_model(weights, official_weights, max_keypoints, resize, device)
        )
    title = f"{image0.parent.name}/{image0.name} and {image1.parent.name}/{image1.name}"
    figure = pairs.matches_figure(pixels, found, title, matrix, most=lines)
    typer.echo(f"written: {curves.save(figure, output)}")


def _relations(
    image: Annotated[Path, typer.Argument(metavar="PHOTO", help="A photo that the cache knows.")],
    cache: Annotated[Path, typer.Option(help="A teacher's cache, of `samfeat teach`.")],
    output: _Output,
    name: Annotated[
        str | None,
        typer.Option(help="The photo's name in the cache, where several end like PHOTO's."),
    ] = None,
    at: Annotated[
        tuple[float, float] | None,
        typer.Option(
            help="Pixel x y whose similarity to all others is drawn.", show_default="the middle"
        ),
    ] = None,
    weights: Weights = None,
    official_weights: OfficialWeights = False,
    device: Device = None,
) -> None:
    """Draw which parts of a photo the teacher, and which SAMFeat, finds similar."""
    from ..evaluation import curves
    from ..feature.network import SAMFeat
    from ..files.images import read_image
    from ..pictures import relations
    from ..teachers.cache import TeacherCache

    pixels = read_image(image)
    opened = TeacherCache(cache)
    found = relations.name_in(opened, image, name)
    model = SAMFeat.from_pretrained(weights, official=official_weights, device=device)
    figure = relations.relations_figure(pixels, opened.read(found).embedding, model, at,
                                                opened.teacher, found)  # fmt: skip
    typer.echo(f"written: {curves.save(figure, output)}")


def _model(
    weights: Path | None,
    official_weights: bool,
    max_keypoints: int,
    resize: int,
    device: str | None,
) -> tuple[SAMFeat, ExtractOptions]:
    from ..feature.network import SAMFeat

    model = SAMFeat.from_pretrained(weights, official=official_weights, device=device)
    return model, extract_options(max_keypoints, resize or None, official_weights)


def _extracted(pixels: tuple[Any, Any], model: SAMFeat, options: ExtractOptions) -> Any:
    from ..evaluation.matching import CachedFeatures
    from ..feature.extraction import extract_batch

    return tuple(
        CachedFeatures(found["keypoints"].astype(float), found["descriptors"])
        for found in extract_batch(model, list(pixels), options)
    )


def _of_file(
    path: Path, image_dir: Path | None, images: tuple[Path, Path], pixels: tuple[Any, Any],
    max_keypoints: int,
) -> Any:  # fmt: skip
    """Features of both images in a file; their names are relative to ``image_dir``."""
    from ..errors import SamfeatError
    from ..evaluation.predictions import FeatureFile

    found = []
    with FeatureFile(path, max_keypoints=max_keypoints) as file:
        for image, picture in zip(images, pixels, strict=True):
            try:
                name = image.resolve().relative_to((image_dir or Path()).resolve()).as_posix()
            except ValueError:
                raise SamfeatError(
                    image,
                    f"not below {image_dir or 'this folder'}",
                    f"give --images, the folder that the names in {path.name} are below",
                ) from None
            features = file.read(name)
            if features.image_size not in (None, picture.shape[1::-1]):
                raise SamfeatError(
                    image,
                    (
                        f"it has {picture.shape[1]} x {picture.shape[0]} pixels, but {path.name} "
                        f"was made from {features.image_size}"
                    ),
                    "extract from this image",
                )
            found.append(features)
    return tuple(found)
