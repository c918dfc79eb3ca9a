"""Photos that stand turned and do not say so: found against the others, matched as they stand."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from refusals import refused

from samfeat_hloc.feature.extraction import extract_batch
from samfeat_hloc.feature.network import SAMFeat
from samfeat_hloc.feature.presets import PRESETS
from samfeat_hloc.files.masks import Masks
from samfeat_hloc.localization import features
from samfeat_hloc.pipelines import turns
from samfeat_hloc.pipelines.reconstruct import ReconstructOptions


@pytest.fixture(scope="module")
def model() -> SAMFeat:
    return SAMFeat.from_pretrained(device="cpu")


def test_turns_go_along_the_best_pairs() -> None:
    names = list("abcdef")
    edges = [
        (90, "a", "b", 1),  # b is to be turned by 90 degrees to stand as a
        (80, "b", "c", 3),  # and c by 270 to stand as b: as a stands
        (70, "c", "d", 0),
        (20, "a", "d", 2),  # a weak pair that contradicts the strong ones
        (50, "f", "e", 1),
    ]
    # Three of a group stand alike: the fourth is turned. Of two the first one stands.
    assert turns.propagated(names, edges) == {"b": 1, "f": 3}
    assert turns.propagated(names, [(1, "a", "b", 2), (1, "b", "c", 2)]) == {"b": 2}
    assert turns.propagated(names, []) == {}


@pytest.fixture(scope="module")
def photos(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five small photos of a fountain, two of them stored on their side; and a stranger."""
    folder = tmp_path_factory.mktemp("turned") / "photos"
    folder.mkdir()
    source = sorted((shared / "data/town/images_upright/db").glob("fountain*.jpg"))[:5]
    for number, path in enumerate([*source, shared / "data/photos/in_n01440764.jpg"]):
        image = Image.open(path)
        image.thumbnail((320, 320))
        # counter-clockwise: 1 is to be turned by 90 degrees clockwise, 3 by 270
        image = image.rotate({1: 90, 3: 270}.get(number, 0), expand=True)
        image.save(folder / f"{number}.png")
    return folder


def test_photos_on_their_side_are_found(photos: Path, model: SAMFeat, tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(6)]
    output = tmp_path / "turns.txt"
    found = turns.main(photos, names, output, model=model, extract=extract_batch)
    assert found == {"1.png": 1, "3.png": 3}
    assert output.read_text() == "1.png 90\n3.png 270\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["turns.txt", "turns.txt.made_by.json"]
    assert turns.main(photos, names, output, model=model, extract=None) == found  # type: ignore[arg-type]
    with refused(output, "images"):
        turns.main(photos, names[:3], output, model=model, extract=extract_batch)


def test_features_of_a_turned_photo_are_in_its_own_pixels(
    photos: Path, model: SAMFeat, tmp_path: Path
) -> None:
    """Those of the photo as it stands, at the pixels of the photo as it is stored."""
    stored = Image.open(photos / "1.png")
    width, height = stored.size
    mask = np.ones((height, width), np.uint8)
    mask[: height // 2] = 0
    for folder in "ab":
        (tmp_path / folder / "masks").mkdir(parents=True)
    stored.save(tmp_path / "a/1.png")
    Image.fromarray(mask * 255).save(tmp_path / "a/masks/1.png.png")
    stored.rotate(-90, expand=True).save(tmp_path / "b/1.png")
    Image.fromarray(np.rot90(mask, -1) * 255).save(tmp_path / "b/masks/1.png.png")
    files = []
    for folder, quarters in (("a", 1), ("b", 0)):
        files.append(
            features.main(
                tmp_path / folder, ["1.png"], tmp_path / f"{folder}.h5", model=model,
                options=PRESETS["samfeat_fast"], turns={"1.png": quarters},
                masks=Masks(tmp_path / folder / "masks"),
            )
        )  # fmt: skip
    with h5py.File(files[0]) as a, h5py.File(files[1]) as b:
        assert np.array_equal(a["1.png/descriptors"], b["1.png/descriptors"])
        turned, upright = a["1.png/keypoints"][()], b["1.png/keypoints"][()]
        assert len(turned) > 50 and turned[:, 1].min() > height // 2 - 1
        expected = np.stack([upright[:, 1], height - 1 - upright[:, 0]], axis=1)
        assert np.abs(turned - expected).max() < 1e-3
        assert a["1.png/image_size"][()].tolist() == [width, height]
    with refused("a.h5", "turns was true"):  # as they are: other features
        features.main(
            tmp_path / "a", ["1.png"], files[0], model=model, options=PRESETS["samfeat_fast"],
            masks=Masks(tmp_path / "a/masks"),
        )  # fmt: skip


def test_rootsift_needs_none() -> None:
    with refused("--turns", "RootSIFT"):
        ReconstructOptions(method="rootsift", turns=True)
