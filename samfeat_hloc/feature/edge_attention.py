"""Edge attention guidance (section 3.4 of the paper): features attend to each other at edges."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import SamfeatError
from .operators import enlarge

ATTENTION_SCALE = 100.0  # the softmax temperature of the rows' attention


class EdgeAttention(nn.Module):
    """Edge attention guidance: features attend to each other where edges are (section 3.4).

    As the release's code has it, the rows of the image attend to each other within a channel:
    ``softmax(Q K^T / 100) V`` with Q, K, V of shape (B, C, h, w) multiplied as h x w matrices. The
    paper's text, :class:`PixelAttention`, has the same three convolutions.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels, kernel_size=1)
        self.key = nn.Conv2d(channels, channels, kernel_size=1)
        self.value = nn.Conv2d(channels, channels, kernel_size=1)

    def forward(self, features: Tensor, edges: Tensor) -> Tensor:
        """(B, C, h, w) features and (B, 1, h, w) edges to guided features (B, C, h, w)."""
        at_edges = features * edges
        # Rows times columns: contiguous (h, w) planes let the products run as plain batched
        # matrix products whatever the memory format of the convolutions.
        query = self.query(at_edges).contiguous()
        key = self.key(at_edges).contiguous()
        value = self.value(at_edges).contiguous()
        attention = torch.softmax(query @ key.transpose(-2, -1) / ATTENTION_SCALE, dim=-1)
        return features + attention.to(value.dtype) @ value


class PixelAttention(EdgeAttention):
    """Edge attention guidance as the paper's text has it: each pixel attends to all others.

    ``softmax(Q K^T / sqrt(C)) V`` with Q, K, V of shape (B, n, C), the features times the edges at
    the n pixels of 1/8 of the image (means of 2 x 2 features), resized to the features and added
    to them. The work grows with the square of n.
    """

    def forward(self, features: Tensor, edges: Tensor) -> Tensor:
        """As :meth:`EdgeAttention.forward`; h and w even."""
        at_edges = F.avg_pool2d(features * edges, 2)
        height, width = at_edges.shape[-2:]
        pixels = at_edges.flatten(2).transpose(1, 2)
        query, key, value = (
            F.linear(pixels, conv.weight.flatten(1), conv.bias)[:, None]  # one head
            for conv in (self.query, self.key, self.value)
        )
        found = F.scaled_dot_product_attention(query, key, value)[:, 0]
        found = found.transpose(1, 2).unflatten(2, (height, width))
        return features + enlarge(found, 2).to(features.dtype)


EDGE_ATTENTIONS: dict[str, type[EdgeAttention]] = {"rows": EdgeAttention, "pixels": PixelAttention}


def edge_attention_named(kind: bool | str) -> bool | str:
    """The name of an edge attention as a checkpoint's configuration has it: False for "none", True
    for "rows", both of which are older than "pixels".

    Raises:
        SamfeatError: no such edge attention.
    """
    known: dict[bool | str, bool | str] = {"none": False, "rows": True, "pixels": "pixels"}
    if isinstance(kind, bool):
        return kind
    if kind not in known:
        raise SamfeatError(
            "edge_attention", f"{kind!r} is not known", f"give {', '.join(map(str, known))}"
        )
    return known[kind]
