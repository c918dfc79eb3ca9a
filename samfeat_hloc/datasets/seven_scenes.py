"""7Scenes, with the poses from structure from motion that hloc evaluates on.

::

    DIR/<scene>/seq-01/frame-000000.color.png
    DIR/7scenes_sfm_triangulated/<scene>/triangulated/{cameras,images,points3D}.bin
    DIR/7scenes_sfm_triangulated/<scene>/triangulated/list_test.txt     names of the queries
    DIR/7scenes_densevlad_retrieval_top_10/<scene>_top10.txt            optional: 'query db' lines
    DIR/depth/7scenes_<scene>/train/depth/seq01_frame-000000.pose.depth.tiff
                                             optional: millimetres, rendered from the fused model
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from .colmap_model import split_model
from .dataset import INDOORS, Dataset, Retrieval, scenes_there

SCENES = ("chess", "fire", "heads", "office", "pumpkin", "redkitchen", "stairs")
MODELS = "7scenes_sfm_triangulated"


def scenes(root: Path) -> list[str]:
    """The scenes that are there."""
    return scenes_there(root, SCENES)


def open_dataset(root: Path, scene: str) -> Dataset:
    """Read one scene; images are looked for, not decoded.

    Raises:
        SamfeatError: no model or list of queries, malformed lines, photos that are not there.
    """
    model = root / MODELS / scene / "triangulated"
    retrieved = root / "7scenes_densevlad_retrieval_top_10" / f"{scene}_top10.txt"
    dataset = split_model(
        root, root / scene, model, model / "list_test.txt",
        thresholds=INDOORS, benchmark="7scenes", scene=scene,
        retrieval=Retrieval(30, 10, published=retrieved if retrieved.is_file() else None),
    )  # fmt: skip
    depth = root / "depth" / f"7scenes_{scene}" / "train" / "depth"
    return replace(
        dataset,
        depth_maps=(lambda name: depth / depth_name(name)) if depth.is_dir() else None,
    )


def depth_name(name: str) -> str:
    """``seq01_frame-000000.pose.depth.tiff`` of ``seq-01/frame-000000.color.png``."""
    sequence, frame = name.split("/")[-2:]
    frame = frame.removesuffix(".color.png")
    return f"{sequence.replace('-', '')}_{frame}.pose.depth.tiff"
