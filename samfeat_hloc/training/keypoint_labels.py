"""Keypoint labels that `samfeat label` has written, and where they are in views of the photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import SamfeatError
from ..files.h5arrays import group_names, open_hdf5, read_array
from ..files.shared_file import SharedFile
from ..geometry.homographies import inverse, transform


@dataclass(frozen=True)
class PhotoLabels:
    """Keypoints of a photo: keypoints (N, 2) float32 xy in its stored pixels, the centre of the
    top-left one at (0, 0); scores (N,) float32; image_size: width and height."""

    keypoints: np.ndarray
    scores: np.ndarray
    image_size: tuple[int, int]


class KeypointLabels:
    """Reads keypoints of a file in hloc's layout; threads may share one.

    Any feature file will do: per photo ``keypoints`` (N, 2), ``image_size`` (2,), and
    ``keypoint_scores`` or ``scores`` (N,) where there are any.

    Raises:
        SamfeatError: no such file, or no keypoints in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._file = SharedFile(self.path)
        with open_hdf5(self.path) as file:
            self.names: list[str] = group_names(file, "keypoints")
        self._known = frozenset(self.names)
        if not self.names:
            raise SamfeatError(path, "has no keypoints", "make it with `samfeat label`")

    def __contains__(self, name: object) -> bool:
        return name in self._known

    def read(self, name: str) -> PhotoLabels:
        """The labels of a photo.

        Raises:
            SamfeatError: it has none, or they cannot be read.
        """
        if name not in self._known:
            raise SamfeatError(
                self.path, f"has no keypoints of {name}", "run `samfeat label` on its folder"
            )
        try:
            group = self._file()[name]
            keypoints = read_array(group, "keypoints", self.path)
            keypoints = keypoints.astype(np.float32).reshape(-1, 2)
            kind = next((k for k in ("keypoint_scores", "scores") if k in group), None)
            scores = read_array(group, kind, self.path) if kind else np.ones(len(keypoints))
            width, height = (int(v) for v in read_array(group, "image_size", self.path))
            if not np.isfinite(keypoints).all() or scores.size != len(keypoints):
                raise ValueError("they are not finite, or have not a score each")
        except (
            OSError, KeyError, ValueError, TypeError, OverflowError, RuntimeError
        ) as error:  # fmt: skip
            raise SamfeatError(
                self.path,
                f"{name} cannot be read ({' '.join(str(error).split())})",
                "make the file again",
            ) from None
        return PhotoLabels(keypoints, scores.astype(np.float32).reshape(-1), (width, height))


def labels_in_views(
    labels: Sequence[PhotoLabels], sizes: Tensor, to_photo: Tensor, seen: Tensor, limit: int
) -> tuple[Tensor, Tensor]:
    """The best labels of photos in views of them.

    Arguments:
        labels: of B photos.
        sizes: (B, 2) width and height of the photos in the pixels that ``to_photo`` leads to.
        to_photo: (B, 3, 3) from view pixels to photo pixels.
        seen: (B, S, S), 1 where a label may be.
        limit: at most so many a view, the best.

    Returns:
        keypoints (B, limit, 2) float32 in pixels of the views, and (B, limit) of 0 and 1: which of
        them are there.
    """
    most = max(limit, *(len(found.keypoints) for found in labels))
    places = np.zeros((len(labels), most, 2), np.float32)
    scores = np.full((len(labels), most), -np.inf, np.float32)
    for row, found in enumerate(labels):
        relative = (found.keypoints + 0.5) / np.array(found.image_size, np.float32)
        places[row, : len(relative)] = relative
        scores[row, : len(relative)] = found.scores
    device, side = to_photo.device, seen.shape[-1]
    on_photo = torch.from_numpy(places).to(device) * sizes[:, None].to(to_photo) - 0.5
    points = transform(inverse(to_photo), on_photo)
    whole = points.round().long()
    inside = ((whole >= 0) & (whole < side)).all(-1)
    index = whole.clamp(0, side - 1)
    visible = seen.flatten(1).gather(1, index[..., 1] * side + index[..., 0]) > 0
    ranked = torch.from_numpy(scores).to(device).masked_fill(~(inside & visible), -torch.inf)
    values, order = ranked.topk(limit, dim=1)
    chosen = points.gather(1, order[..., None].expand(-1, -1, 2))
    present = values > -torch.inf
    return torch.where(present[..., None], chosen, torch.zeros_like(chosen)), present.float()
