"""Parts of the network that the paper does not have; a checkpoint says which it has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from .operators import conv3x3, conv_relu, enlarge

CONTEXT_DIM = 256
FINE_DIM = 32


class Context(nn.Module):
    """A wider view for c4: three more convolutions at 1/16 of the image, added to it (not in the
    paper). Its last convolution starts at zero, so that a network which grows it begins as it was.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gather = conv3x3(channels, CONTEXT_DIM)
        self.relate = conv3x3(CONTEXT_DIM, CONTEXT_DIM)
        self.give = conv3x3(CONTEXT_DIM, channels)

    def forward(self, c4: Tensor) -> Tensor:
        """(B, C, h, w), of any h and w, to as many features."""
        # An odd last row or column is its own maximum; its double goes beyond c4 and is cut off.
        x = F.max_pool2d(c4, 2, ceil_mode=True)
        x = self.give(F.relu(self.relate(F.relu(self.gather(x)))))
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return c4 + x[..., : c4.shape[-2], : c4.shape[-1]].to(c4.dtype)


class FineDetection(nn.Module):
    """A detection head that sees all levels together, added to the four that see one each (not in
    the paper). Those are linear and move a peak with light and noise; this one can tell what moves
    it. It works at 1/2 of the image, four logits a place. Its last convolution starts at zero, so
    that a network which grows it begins as it was.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        finest, *others = widths
        self.gather = nn.Conv2d(finest, FINE_DIM, kernel_size=2, stride=2)
        self.reduce = nn.ModuleList(nn.Conv2d(width, FINE_DIM, kernel_size=1) for width in others)
        self.mix = conv3x3(FINE_DIM, FINE_DIM)
        self.score = conv3x3(FINE_DIM, 4)

    def takes(self) -> list[nn.Conv2d]:
        """What it takes of c1 and of c2, by these convolutions."""
        return [self.gather, cast(nn.Conv2d, self.reduce[0])]

    def forward(self, fine: Sequence[Tensor], c3: Tensor, c4: Tensor) -> Tensor:
        """What it takes of c1 and c2, c3 guided by the edges, and c4, to logits (B, 1, H, W)
        float32."""
        x = cast(Tensor, self.reduce[2](c4))
        x = self.reduce[1](c3) + enlarge(x, 2).to(x.dtype)
        x = fine[0] + fine[1] + enlarge(x, 2).to(x.dtype)
        return F.pixel_shuffle(self.score(conv_relu(self.mix, F.relu(x))).float(), 2)
