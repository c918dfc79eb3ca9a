"""glue-factory's training on posed photos with depth, with photos of the city for MegaDepth's."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from small_city import HEIGHT, WIDTH, City

import samfeat_hloc
from samfeat_hloc.feature.stacked import extract_stacked

CONFIGURATION = (
    Path(samfeat_hloc.__file__).parent / "gluefactory" / "samfeat+lightglue_megadepth.yaml"
)
spec = importlib.util.find_spec("gluefactory")
needs_gluefactory = pytest.mark.skipif(
    spec is None or spec.origin is None, reason="glue-factory is not installed"
)


def views_of(city: City, names: list[str]) -> dict[str, Any]:
    """A batch of one pair in glue-factory's form, padded to squares as its MegaDepth's photos."""
    from gluefactory.geometry.wrappers import Camera, Pose

    data: dict[str, Any] = {}
    poses = [city.poses[name] for name in names]
    shots = {shot.name: shot for shot in city.database}
    for index, name in enumerate(names):
        image, depth = torch.zeros(1, 3, WIDTH, WIDTH), torch.zeros(1, WIDTH, WIDTH)
        photo = torch.from_numpy(city.photos[name].copy()).permute(2, 0, 1) / 255
        image[0, :, :HEIGHT], depth[0, :HEIGHT] = photo, torch.from_numpy(city.depth[name].copy())
        fx, fy, cx, cy = shots[name].camera.params
        data[f"view{index}"] = {
            "image": image,
            "depth": depth,
            "image_size": torch.tensor([[WIDTH, HEIGHT]]),
            "camera": Camera(torch.tensor([[WIDTH, HEIGHT, fx, fy, cx, cy]])).float(),
        }
    for i, j in ((0, 1), (1, 0)):
        relative = poses[j] @ poses[i].inverse()
        turn, move = (torch.from_numpy(np.asarray(v)) for v in (relative.rotation, relative.tvec))
        data[f"T_{i}to{j}"] = Pose.from_Rt(turn[None], move[None]).float()
    return data


@needs_gluefactory
def test_a_step_on_posed_photos(city: City) -> None:
    from gluefactory.models import get_model

    conf = OmegaConf.load(CONFIGURATION).model
    conf.extractor.max_num_keypoints, conf.matcher.n_layers = 256, 2
    torch.manual_seed(0)
    pipeline = get_model(conf.name)(conf).train()
    data = views_of(city, [shot.name for shot in city.database[1:3]])
    found = pipeline(data)
    assert found["keypoints0"].shape == (1, 256, 2)
    assert (found["keypoints0"][0] < torch.tensor([WIDTH, HEIGHT])).all()
    view = data["view0"]["image"][..., :HEIGHT, :]
    alone = extract_stacked(pipeline.extractor.net, view, pipeline.extractor.options)
    own = found["keypoint_scores0"][0] > 0
    assert torch.equal(found["keypoints0"][0, own], alone.keypoints[0] + 0.5)  # from the corner
    losses, _ = pipeline.loss(found, data)
    losses["total"].mean().backward()
    assert all(p.grad is None for p in pipeline.extractor.parameters())
    assert pipeline.matcher.input_proj.weight.grad.abs().sum() > 0
    # The true matches by poses and depth are those of the descriptors, where these are sure.
    truth = found["gt_matches0"][0]
    similar = found["descriptors0"][0] @ found["descriptors1"][0].T
    both = (truth >= 0) & (similar.amax(1) > 0.8)
    assert (truth >= 0).sum() > 40 and both.sum() > 20
    assert (similar.argmax(1)[both] == truth[both]).float().mean() > 0.9
