"""The network as an ONNX file, for programs that do not have PyTorch.

The file holds the network alone: images in, two maps out. Keypoints are the maps' peaks, which
docs/onnx.md finds in a few lines; what those maps are is said in :class:`DenseMaps`.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import SamfeatError, in_one_line
from ..files.atomic import making_file
from .network import DESCRIPTOR_DIM, FEATURE_STRIDE, SAMFeat

logger = logging.getLogger(__name__)

OPSET = 18
SIDE = 8  # height and width are multiples of it
_OF = {
    "image": "float32 (batch, 3, height, width), RGB in [0, 1], sides multiples of 8",
    "keypoint_logits": "float32 (batch, 1, height, width); a sigmoid makes scores of them",
    "descriptors": f"float32 (batch, {DESCRIPTOR_DIM}, height / 4, width / 4); sample bilinearly "
    "at (x + 0.5) / 4 - 0.5, then make of unit length",
}


class DenseMaps(nn.Module):
    """What the exported file computes.

    ``image`` (B, 3, H, W) float32, RGB in [0, 1], H and W multiples of 8, to

    - ``keypoint_logits`` (B, 1, H, W) float32, the edge map added: their sigmoid is the score of
      the pixel, centre of the top-left pixel at (0, 0);
    - ``descriptors`` (B, 128, H/4, W/4) float32, not of unit length: that of a pixel (x, y) is the
      bilinear sample at ((x + 0.5) / 4 - 0.5, (y + 0.5) / 4 - 0.5), divided by its length.
    """

    def __init__(self, network: SAMFeat) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        encoded = self.network.encode(image * 2 - 1)
        edges = F.interpolate(
            encoded.edges, scale_factor=FEATURE_STRIDE, mode="bilinear", align_corners=False
        )
        return encoded.keypoint_logits + edges, self.network.describe(encoded.features)


def export_onnx(network: SAMFeat, output: Path) -> Path:
    """Write a network as one ONNX file of opset 18; batch, height and width are free.

    Arguments:
        network: on the processor, in float32.

    Returns:
        ``output``.

    Raises:
        SamfeatError: onnx or onnxscript is not installed, PyTorch is older than 2.5, PyTorch cannot
            export, or ``output`` cannot be written.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise SamfeatError(
            "samfeat export onnx", f"{error.name} is not installed", "pip install onnx onnxscript"
        ) from error
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 5):
        raise SamfeatError(
            "samfeat export onnx", f"PyTorch {torch.__version__} is too old", "install 2.5 or newer"
        )
    # Sizes that the exporter could take for constants do not appear: 2, 64 and 80 stay free.
    batch = torch.export.Dim("batch", min=1, max=1 << 12)
    eighths = [torch.export.Dim(f"{side}_8", min=2, max=1 << 11) for side in ("height", "width")]
    sizes = {0: batch, 2: SIDE * eighths[0], 3: SIDE * eighths[1]}
    maps = DenseMaps(network.to(memory_format=torch.contiguous_format)).eval()  # type: ignore[call-overload]
    said = io.StringIO()  # the exporter prints its steps
    try:
        with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(said):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                maps, (torch.rand(2, 3, 64, 80),), dynamo=True, opset_version=OPSET,
                input_names=["image"], output_names=["keypoint_logits", "descriptors"],
                dynamic_shapes={"image": sizes},
            )  # fmt: skip
    except Exception as error:  # the exporter raises whatever its parts do
        raise SamfeatError(
            "samfeat export onnx",
            f"PyTorch {torch.__version__} could not export ({in_one_line(error)[:200]})",
            "install a newer PyTorch, onnx and onnxscript",
        ) from error
    assert program is not None
    facts = {**_OF, "weights_sha256": network.weights_sha256, "made_by": "samfeat_hloc"}
    program.model.metadata_props.update(facts)
    with making_file(output) as temporary:
        program.save(str(temporary), external_data=False)
    return output
