"""``hloc.matchers.samfeat_lightglue``: LightGlue that was trained on SAMFeat, as a matcher of hloc.

hloc's own matcher ``lightglue`` takes the features whose weights LightGlue's authors published, and
no others. This file is run under that name, so its imports are absolute.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from hloc.utils.base_model import BaseModel
from torch import Tensor

from samfeat_hloc.errors import SamfeatError
from samfeat_hloc.hloc_plugin.lightglue_weights import TRAIN, read_lightglue


class LightGlue(BaseModel):  # type: ignore[misc]
    """LightGlue on SAMFeat's features.

    Configuration: ``weights``, a checkpoint of glue-factory; ``filter_threshold``,
    ``depth_confidence`` and ``width_confidence`` as LightGlue has them.
    """

    default_conf = {  # noqa: RUF012
        "name": "samfeat_lightglue",
        "features": "samfeat",
        "weights": None,
        "filter_threshold": 0.1,
        "depth_confidence": 0.95,
        "width_confidence": 0.99,
    }
    required_inputs = [  # noqa: RUF012
        "image0", "keypoints0", "descriptors0", "image1", "keypoints1", "descriptors1",
    ]  # fmt: skip

    def _init(self, conf: dict[str, Any]) -> None:
        if conf["weights"] is None:
            raise SamfeatError(
                "samfeat+lightglue",
                "no weights are given, and none come with the package",
                f"{TRAIN}, and give them as configurations.lightglue(WEIGHTS), or "
                "on the command line as --lightglue WEIGHTS",
            )
        try:
            import lightglue
        except ImportError as error:
            raise SamfeatError(
                "samfeat+lightglue",
                f"LightGlue cannot be imported ({error})",
                'pip install "lightglue @ git+https://github.com/cvg/LightGlue.git"',
            ) from error
        path = Path(conf["weights"])
        trained = read_lightglue(path)
        given = {"weights", "features", "name"}
        options = {name: value for name, value in conf.items() if name not in given}
        self.net = lightglue.LightGlue(features=None, **trained.sizes, **options)
        fits = self.net.load_state_dict(trained.parameters, strict=False)
        if fits.missing_keys or fits.unexpected_keys:
            wrong = (*fits.missing_keys, *fits.unexpected_keys)
            raise SamfeatError(
                path,
                f"does not fit the LightGlue that is installed ({wrong[0]})",
                "install the LightGlue of the time, or train it anew",
            )

    def _forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """hloc's features of a pair to ``matches0`` (1, N), -1 for none, and their scores."""
        found = self.net({f"image{i}": _image(data, i) for i in "01"})
        return {name: found[name] for name in ("matches0", "matching_scores0")}


def _image(data: dict[str, Tensor], which: str) -> dict[str, Tensor]:
    """One image as LightGlue takes it; it was trained on keypoints from the pixels' corner."""
    keypoints = data[f"keypoints{which}"] + 0.5
    height, width = data[f"image{which}"].shape[-2:]
    return {
        "keypoints": keypoints,
        "descriptors": data[f"descriptors{which}"].transpose(-1, -2),
        "image_size": torch.tensor([[width, height]]).to(keypoints),
    }
