"""The network of "Segment Anything Model is a Good Teacher for Local Feature Learning".

Read from top to bottom as the paper's figure: a small VGG backbone with four levels (c1..c4 at 1,
1/2, 1/4 and 1/8 of the image), a distillation head that is taught SAM's relations (section 3.2), an
edge head and the edge attention guidance built on it (section 3.4, :mod:`.edge_attention`), four
detection heads, an attention map and a descriptor head. What the paper does not have is in
:mod:`.additions`. Where a convolution, a pooling or a
resizing has a faster form, :mod:`.operators` has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..files.image_forms import ImageLike
from ..files.masks import MaskLike
from ..parallel.devices import device_of
from . import checkpoints
from .additions import Context, FineDetection
from .detection import counts_first
from .edge_attention import EDGE_ATTENTIONS, edge_attention_named
from .extraction import extract_batch, masked
from .local_features import Features, as_tensors
from .operators import conv3x3, conv_relu, enlarge, halve, shrink, to_one
from .options import ExtractKeywords, ExtractOptions
from .strips import level_in_strips

if TYPE_CHECKING:
    from typing_extensions import Unpack  # of typing from Python 3.11 on

DESCRIPTOR_DIM = 128
LEVEL_DIMS = (64, 64, 128, 128)  # c1, c2, c3 and c4
FEATURE_DIM = sum(LEVEL_DIMS)  # stacked at 1/4
FEATURE_STRIDE = 4
# Keypoints: on a processor their features stay in its cache, elsewhere in some 400 MB.
DESCRIBED_AT_ONCE = {"cpu": 512, "elsewhere": 1 << 15}


class Seen(NamedTuple):
    """What the detection heads see of B images of (H, W) pixels.

    levels: c1 to c4, (B, 64, H, W) to (B, 128, H/8, W/8), whole; c3 guided by the edges.
    edges: as in :class:`Encoded`.
    """

    levels: list[Tensor]
    edges: Tensor


class Encoded(NamedTuple):
    """What the network knows of B images of (H, W) pixels before it describes points.

    keypoint_logits: (B, 1, H, W), before the sigmoid and before the edge map is added.
    features: (B, 384, H/4, W/4), guided by the edges where the network has edge attention.
    distillation: (B, 256, H/8, W/8), the map that the relation loss (ASRD) supervises.
    edges: (B, 1, H/4, W/4) in (0, 1).
    """

    keypoint_logits: Tensor
    features: Tensor
    distillation: Tensor
    edges: Tensor


class Maps(NamedTuple):
    """What the network says of a batch of B images of (H, W) pixels, both multiples of 8.

    keypoint_logits, distillation, edges: as in :class:`Encoded`.
    descriptors: (B, 128, H/4, W/4), not normalised.
    attention: (B, 1, H/4, W/4), positive (softplus).
    """

    keypoint_logits: Tensor
    descriptors: Tensor
    attention: Tensor
    distillation: Tensor
    edges: Tensor


class Levels(NamedTuple):
    """The four levels of the backbone, as far as something looks at them.

    small: [c1, c2], each (B, 64, H/4, W/4): shrunk, as the descriptors take them.
    logits: of their detection heads, (B, 1, H, W) and (B, 1, H/2, W/2) float32.
    fine: what :class:`FineDetection` takes of them, each (B, 32, H/2, W/2); empty without it.
    c3: (B, 128, H/4, W/4). c4: (B, 128, H/8, W/8).
    """

    small: list[Tensor]
    logits: list[Tensor]
    fine: list[Tensor]
    c3: Tensor
    c4: Tensor


class Backbone(nn.Module):
    """Eight 3x3 convolutions with ReLU, max-pooled after every second one."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, 64, 64, 128, 128]
        self.levels = nn.ModuleList(
            nn.ModuleList([conv3x3(before, width), conv3x3(width, width)])
            for before, width in pairwise(widths)
        )

    def forward(
        self, image: Tensor, detect: Sequence[nn.Conv2d], fine: Sequence[nn.Conv2d] = ()
    ) -> Levels:
        """(B, 3, H, W) to :class:`Levels`; ``detect`` are the detection heads of c1 and c2,
        ``fine`` the convolutions by which :class:`FineDetection` takes them."""
        x = image
        small, logits, taken = [], [], []
        convs = cast(list[list[nn.Conv2d]], self.levels)
        for index, (level, head, factor) in enumerate(zip(convs[:2], detect, (4, 2), strict=True)):
            x, shrunk, logit, *more = level_in_strips(
                level, head, factor, x, fine[index : index + 1]
            )
            small.append(shrunk)
            logits.append(logit)
            taken += more
        c3 = conv_relu(convs[2][1], conv_relu(convs[2][0], x))
        c4 = conv_relu(convs[3][1], conv_relu(convs[3][0], halve(c3)))
        return Levels(small, logits, taken, c3, c4)

    def whole(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to c1 (B, 64, H, W), c2, c3 and c4 (B, 128, H/8, W/8), each kept whole."""
        levels: list[Tensor] = []
        x = image
        for convs in cast(list[list[nn.Conv2d]], self.levels):
            x = halve(x) if levels else x
            for conv in convs:
                x = conv_relu(conv, x)
            levels.append(x)
        return levels


class SAMFeat(nn.Module):
    """The local feature: keypoints, descriptors, and the attention that weights them.

    Example::

        model = SAMFeat.from_pretrained()
        features = model.extract(image, resize=1024)

    Arguments:
        edge_attention: the edge attention guidance: "rows" (or True) as the release's code has
            it, "pixels" as the paper's text has it, "none" (or False) without, as in the paper's
            ablation (the edge map then still guides the detector).
        context: build the wider view (see :class:`Context`), which the paper does not have.
        fine_detection: build :class:`FineDetection`, which the paper does not have.
    """

    def __init__(
        self,
        *,
        edge_attention: bool | str = True,
        context: bool = False,
        fine_detection: bool = False,
    ) -> None:
        super().__init__()
        edge_attention = edge_attention_named(edge_attention)
        self.config: dict[str, Any] = {"edge_attention": edge_attention, "context": context}
        if fine_detection:  # not a word of it in the files of those without
            self.config["fine_detection"] = True
        self.metadata: dict[str, Any] = {}
        self.weights_sha256 = "none: random weights"

        self.backbone = Backbone()
        # Distillation head: `distill` is compared with the teacher, `fuse` brings it back.
        self.distill = conv3x3(128, 256)
        self.fuse = conv3x3(256, 128)
        self.context = Context(128) if context else None
        # Detection heads, one for each level, and their learned shares.
        self.detect = nn.ModuleList(conv3x3(width, 1) for width in LEVEL_DIMS)
        self.detect_share = nn.Parameter(torch.tensor([0.1, 0.2, 0.3, 0.4]))
        self.detect_fine = FineDetection(LEVEL_DIMS) if fine_detection else None
        # Edge head and edge attention guidance.
        self.edge = nn.Conv2d(FEATURE_DIM, 1, kernel_size=1)
        kind = "rows" if edge_attention is True else str(edge_attention)
        self.edge_attention = EDGE_ATTENTIONS[kind](FEATURE_DIM) if edge_attention else None
        # Attention map and descriptor head.
        self.attention = conv3x3(1, 1)
        self.describe = conv3x3(FEATURE_DIM, DESCRIPTOR_DIM)

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if self.context is not None:
            nn.init.zeros_(self.context.give.weight)
            nn.init.zeros_(cast(Tensor, self.context.give.bias))
        if self.detect_fine is not None:
            nn.init.zeros_(self.detect_fine.score.weight)
            nn.init.zeros_(cast(Tensor, self.detect_fine.score.bias))

    def forward(self, image: Tensor) -> Maps:
        """(B, 3, H, W) RGB in [-1, 1], H and W multiples of 8, to :class:`Maps`."""
        encoded = self.encode(image)
        return Maps(
            encoded.keypoint_logits,
            self.describe(encoded.features),
            self.attention_map(encoded.features),
            encoded.distillation,
            encoded.edges,
        )

    def encode(self, image: Tensor) -> Encoded:
        """(B, 3, H, W) RGB in [-1, 1], H and W multiples of 8, to :class:`Encoded`."""
        detect = cast(Sequence[nn.Conv2d], self.detect)
        head = self.detect_fine
        small, logits, fine, c3, c4 = self.backbone(
            image, detect[:2], () if head is None else head.takes()
        )
        c4, distillation = self._distilled(c4)
        features, edges = self._stacked([*small, c3, enlarge(c4, 2)])
        guided = c3 * edges + c3
        logits += [to_one(detect[2], guided), to_one(detect[3], c4)]
        keypoint_logits = self._keypoint_logits(logits)
        if head is not None:
            keypoint_logits = keypoint_logits + head(fine, guided, c4)

        if self.edge_attention is not None:
            features = self.edge_attention(features, edges)
        return Encoded(keypoint_logits, features, distillation, edges)

    def see(self, image: Tensor) -> Seen:
        """(B, 3, H, W) RGB in [-1, 1], H and W multiples of 8, to :class:`Seen`."""
        c1, c2, c3, c4 = self.backbone.whole(image)
        c4, _ = self._distilled(c4)
        _, edges = self._stacked([shrink(c1, 4), shrink(c2, 2), c3, enlarge(c4, 2)])
        return Seen([c1, c2, c3 * edges + c3, c4], edges)

    def detect_in(self, levels: Sequence[Tensor]) -> Tensor:
        """The keypoint logits (B, 1, H, W) of :class:`Seen`'s levels."""
        heads = cast(Sequence[nn.Conv2d], self.detect)
        logits = self._keypoint_logits(
            [to_one(head, level) for head, level in zip(heads, levels, strict=True)]
        )
        if self.detect_fine is None:
            return logits
        taken = [conv(x) for conv, x in zip(self.detect_fine.takes(), levels[:2], strict=True)]
        return logits + self.detect_fine(taken, *levels[2:])

    def _distilled(self, c4: Tensor) -> tuple[Tensor, Tensor]:
        """c4 with what it was taught (and the context), and the distillation map."""
        distillation = self.distill(c4)
        c4 = c4 + self.fuse(distillation)
        return (c4 if self.context is None else self.context(c4)), distillation

    def _stacked(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The levels at 1/4 as features, and their edges."""
        # Interpolation leaves bfloat16; everything here is a convolution's input again.
        features = torch.cat([level.to(levels[2].dtype) for level in levels], dim=1)
        return features, torch.sigmoid(self.edge(features))

    def attention_map(self, features: Tensor) -> Tensor:
        """The attention (B, 1, h, w) of features (B, 384, h, w), positive."""
        return F.softplus(self.attention(features.mean(dim=1, keepdim=True)))

    def describe_at(
        self, features: Tensor, keypoints: Tensor, images: Tensor | None = None
    ) -> Tensor:
        """Descriptors at keypoints alone: bilinear samples of ``describe(features)``.

        Both are linear, so the samples come first and the convolution runs over them: the work of
        a few thousand places in place of the whole map's.

        Arguments:
            features: (384, h, w) of one image, or (B, 384, h, w).
            keypoints: (N, 2) xy in the image's pixels, four to a feature.
            images: (N,) int64, which of the B images each is in; None for the first.

        Returns:
            (N, 128) float32, not normalised.
        """
        features = features if features.ndim == 4 else features[None]
        height, width = features.shape[-2:]
        few = counts_first(features.device)
        rows = features.permute(0, 2, 3, 1).reshape(len(features) * height * width, -1)
        weight = self.describe.weight.permute(0, 2, 3, 1).flatten(1).to(features.dtype)
        place = (keypoints + 0.5) / FEATURE_STRIDE - 0.5
        across, down = place[:, 0].clamp(0, width - 1), place[:, 1].clamp(0, height - 1)
        place = torch.stack([across, down], dim=1)
        first = images * (height * width) if images is not None else torch.zeros_like(across).long()
        reach = torch.arange(-1, 3, device=place.device)
        bias = cast(Tensor, self.describe.bias)
        described = [place.new_zeros(0, DESCRIPTOR_DIM)]
        at_once = DESCRIBED_AT_ONCE["cpu" if features.device.type == "cpu" else "elsewhere"]
        for some, start in zip(place.split(at_once), first.split(at_once), strict=True):
            corner = some.floor()
            x, y = (corner.long()[:, :, None] + reach).unbind(1)
            inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None]
            index = y.clamp(0, height - 1)[:, :, None] * width + x.clamp(0, width - 1)[:, None]
            # 4x4 features hold the 3x3 neighbourhoods of the four around a keypoint.
            around = rows[index + start[:, None, None]]
            # Outside is zero, as the convolution pads.
            if few:
                outside = torch.nonzero(~inside, as_tuple=True)  # of keypoints at the border
                around[outside] = 0
            else:
                around.masked_fill_(~inside[..., None], 0)
            fx, fy = (some - corner).to(rows.dtype)[:, :, None, None, None].unbind(1)
            around = torch.lerp(around[:, :3], around[:, 1:], fy)
            around = torch.lerp(around[:, :, :3], around[:, :, 1:], fx)
            described.append((around.flatten(1) @ weight.t()).float() + bias)
        return torch.cat(described)

    def _keypoint_logits(self, logits: list[Tensor]) -> Tensor:
        """Sum of the four detection heads' logits at full size, (B, 1, H, W) float32.

        Each head may compute in half precision, the sum never: its few digits would make
        neighbouring pixels equal, which costs suppression its peaks and refinement its fractions.
        """
        heads = zip(self.detect_share, logits, (1, 2, 4, 8), strict=True)
        return torch.stack([share * enlarge(one, factor) for share, one, factor in heads]).sum(0)

    @classmethod
    def from_pretrained(
        cls, weights: str | Path | None = None, *, official: bool = False,
        sha256: str | None = None, device: str | torch.device | None = None,
    ) -> SAMFeat:  # fmt: skip
        """Load a checkpoint, ready for inference.

        Arguments:
            weights: a safetensors file of this package; the name of one that is shipped with it
                beside the default; None for the default.
            official: say that ``weights`` is a file of the paper's public release (a pickled
                state dict; read with ``weights_only=True``, so it cannot run code). Its SHA-256
                is logged.
            sha256: the digest that the file must have.
            device: where to put it, such as cuda:1; see :func:`..parallel.devices.device_of`.

        Raises:
            SamfeatError: no such file, not a checkpoint, parameters that do not fit, another
                SHA-256 than the one asked for, or no such device.
        """
        chosen = device_of(device)
        read = checkpoints.read_release if official else checkpoints.read_checkpoint
        checkpoint = read(checkpoints.resolve(weights, official=official), sha256=sha256)
        model = cls(**checkpoint.config)
        checkpoints.load_parameters(model, checkpoint)
        model.metadata = checkpoint.metadata
        model.weights_sha256 = checkpoint.sha256
        return model.eval().to(device=chosen, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    @overload  # a str is a sequence of str, but never comes to the second
    def extract(  # type: ignore[overload-overlap]
        self, image: ImageLike, *, mask: MaskLike | None = None, **options: Unpack[ExtractKeywords]
    ) -> Features: ...

    @overload
    def extract(
        self, image: Sequence[ImageLike], *, mask: Sequence[MaskLike | None] | None = None,
        **options: Unpack[ExtractKeywords],
    ) -> list[Features]: ...  # fmt: skip

    @torch.inference_mode()
    def extract(
        self,
        image: ImageLike | Sequence[ImageLike],
        *,
        mask: MaskLike | Sequence[MaskLike | None] | None = None,
        **options: Unpack[ExtractKeywords],
    ) -> Features | list[Features]:
        """Keypoints and descriptors of one image, or of a list of images.

        Arguments:
            image: a path; a uint8 array (H, W, 3) RGB or (H, W) grey; a Pillow image; a tensor
                (3, H, W) or (1, H, W), uint8 or floats in [0, 1]; or a list of these.
            mask: (H, W), the image's size, with no keypoints where it is 0: a path, an array, a
                Pillow image or a tensor; for a list of images a list, with None for the whole one.
            options: the fields of :class:`samfeat_hloc.feature.options.ExtractOptions`, such as
                ``resize=1024, max_keypoints=4096``.

        Returns:
            A dict of tensors on the CPU (a list of dicts for a list of images): ``keypoints``
            (N, 2) float32 xy in pixels of the image given, the centre of its top-left pixel at
            (0, 0); ``keypoint_scores`` (N,) float32, best first; ``descriptors`` (128, N) float32;
            ``image_size`` (2,) int64 width and height.

        Raises:
            SamfeatError: an image that cannot be read, a mask of another size, an unknown option.
        """
        checked = ExtractOptions.from_keywords(options)
        if isinstance(image, Sequence) and not isinstance(image, str):
            inputs = masked(image, mask)
            return [as_tensors(found) for found in extract_batch(self, inputs, checked)]
        inputs = masked([image], None if mask is None else [mask])
        return as_tensors(extract_batch(self, inputs, checked)[0])
