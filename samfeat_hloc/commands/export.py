"""``samfeat export``: the network for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .application import group
from .options import INSTALLATION, OfficialWeights, OverwriteOutput, Weights


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    exports = group(app, "export", "Write the network for other programs.", INSTALLATION)
    exports.command("onnx")(_onnx)


def _onnx(
    output: Annotated[Path, typer.Option(help="ONNX file to write.")],
    weights: Weights = None,
    official_weights: OfficialWeights = False,
    overwrite: OverwriteOutput = False,
) -> None:
    """Write the network as an ONNX file (opset 18, float32, free batch and image size).

    Input image: (batch, 3, height, width), RGB in [0, 1], sides multiples of 8 (repeat the border
    where they are not). Output keypoint_logits: (batch, 1, height, width); the sigmoid is a pixel's
    score, and keypoints are its local maxima. Output descriptors: (batch, 128, height / 4, width /
    4); the descriptor of a pixel (x, y), the centre of the first at (0, 0), is the bilinear sample
    at ((x + 0.5) / 4 - 0.5, (y + 0.5) / 4 - 0.5), divided by its length. docs/onnx.md does it in
    twenty lines.
    """
    from ..feature.network import SAMFeat
    from ..feature.onnx_export import export_onnx
    from ..files.atomic import check_place

    check_place(output, overwrite=overwrite)
    network = SAMFeat.from_pretrained(weights, official=official_weights, device="cpu")
    path = export_onnx(network, output)
    typer.echo(f"{path}: {path.stat().st_size / 1e6:.1f} MB, weights {network.weights_sha256[:12]}")
