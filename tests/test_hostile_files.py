"""Files from strangers: read, or refused in one line; arbitrary content against the parsers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from refusals import refused
from safetensors.torch import save
from street_run import pose_at, write_map

from samfeat_hloc.colmap.model import read_content, read_model
from samfeat_hloc.errors import SamfeatError, cause_of
from samfeat_hloc.feature import checkpoints
from samfeat_hloc.files.feature_readers import FeatureReader, MatchReader
from samfeat_hloc.files.provenance import read_sidecar, sidecar
from samfeat_hloc.localization.matches import DescriptorCache
from samfeat_hloc.localization.result import log_path, read_result
from samfeat_hloc.training.recipe import read_recipe

RECIPE = (Path(__file__).parents[1] / "configs" / "homographies.yaml").read_text()
ANY_ARRAY = arrays.arrays(
    st.one_of(
        arrays.scalar_dtypes(), st.just(np.dtype("S4")), st.just(np.dtype("float16"))
    ).filter(lambda dtype: dtype.kind in "fiubS"),
    arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)  # fmt: skip


@contextmanager
def read_or_refused() -> Iterator[None]:
    """An error in the block is one short line of a SamfeatError."""
    try:
        yield
    except SamfeatError as error:
        assert "\n" not in str(error) and len(str(error)) < 3000


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Content with a few bytes overwritten, left out or cut off."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        patch = draw(st.binary(max_size=8))
        data[at : at + draw(st.integers(0, 8))] = patch
    if draw(st.booleans()):
        del data[draw(st.integers(0, len(data))) :]
    return bytes(data)


@settings(deadline=None, max_examples=60)
@given(array=ANY_ARRAY, dataset=st.sampled_from(["keypoints", "descriptors", "image_size"]))
def test_any_array_as_features(
    tmp_path_factory: pytest.TempPathFactory, array: np.ndarray, dataset: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any-features.h5"
    with h5py.File(path, "w") as file:
        file["a.jpg/keypoints"] = np.zeros((3, 2), np.float32)
        file["a.jpg/descriptors"] = np.zeros((8, 3), np.float16)
        if dataset in file["a.jpg"]:
            del file["a.jpg"][dataset]
        file["a.jpg"][dataset] = array
    with (
        read_or_refused(),
        FeatureReader(path) as reader,
        DescriptorCache(path, "cpu") as cache,
    ):
        keypoints = reader.keypoints("a.jpg")
        assert keypoints.ndim == 2 and keypoints.shape[1] == 2
        assert np.isfinite(keypoints).all()
        assert reader.descriptors("a.jpg").ndim == 2
        assert cache.get("a.jpg").dim() == 2
        size = reader.image_size("a.jpg")
        assert size is None or all(isinstance(side, int) for side in size)


@settings(deadline=None, max_examples=40)
@given(array=ANY_ARRAY)
def test_any_array_as_matches(tmp_path_factory: pytest.TempPathFactory, array: np.ndarray) -> None:
    path = tmp_path_factory.getbasetemp() / "any-matches.h5"
    with h5py.File(path, "w") as file:
        file["a.jpg/b.jpg/matches0"] = array
    with read_or_refused(), MatchReader(path) as reader:
        matches = reader.matches("b.jpg", "a.jpg")
        assert matches.shape == (len(matches), 2) and (matches >= 0).all()


def test_a_shape_of_terabytes_is_not_allocated(tmp_path: Path) -> None:
    path = tmp_path / "absurd.h5"
    with h5py.File(path, "w") as file:  # a file of a few hundred bytes
        file.create_dataset("a.jpg/keypoints", (1 << 40, 2), "f4", chunks=(1024, 2))
        file.create_dataset("a.jpg/descriptors", (128, 1 << 40), "f2", chunks=(128, 64))
        file.create_dataset("a.jpg/b.jpg/matches0", (1 << 44,), "i2", chunks=(1024,))
    with FeatureReader(path) as reader:
        for read in (reader.keypoints, reader.descriptors):
            with refused(problem="1099511627776"):
                read("a.jpg")
    with (
        DescriptorCache(path, "cpu") as cache,
        refused("a.jpg/descriptors", "1099511627776"),
    ):
        cache.get("a.jpg")
    with MatchReader(path) as reader, refused("a.jpg/b.jpg/matches0", "17592186044416"):
        reader.matches("a.jpg", "b.jpg")


@pytest.fixture(scope="module")
def small_map(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("map") / "good"
    xyz = np.random.default_rng(0).uniform(-3, 3, (12, 3))
    write_map(folder, xyz, ["db/a.jpg", "db/b.jpg"], [pose_at(0.0), pose_at(1.0)])
    assert len(read_model(folder).images) == 2
    return folder


@settings(deadline=None, max_examples=120)
@given(data=st.data(), which=st.sampled_from(["cameras", "images", "points3D"]))
def test_a_damaged_map_is_read_or_refused(
    small_map: Path, data: st.DataObject, which: str
) -> None:  # fmt: skip
    folder = small_map.with_name("damaged")
    shutil.copytree(small_map, folder, dirs_exist_ok=True)
    file = folder / f"{which}.bin"
    file.write_bytes(data.draw(damaged(file.read_bytes())))
    for read in (read_model, read_content):
        with read_or_refused():
            read(folder)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_damaged_recipe_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    text = data.draw(st.one_of(st.binary(max_size=80), damaged(RECIPE.encode())))
    path.write_bytes(text)
    with read_or_refused():
        read_recipe(path, ["data.images=photos"])


def test_a_recipe_is_no_program(tmp_path: Path) -> None:
    path, owned = tmp_path / "r.yaml", tmp_path / "owned"
    path.write_text(f"output: !!python/object/apply:os.system ['touch {owned}']\n")
    with refused("r.yaml", "os.system"):
        read_recipe(path, [])
    path.write_text("- 1\n- 2\n")
    with refused("r.yaml"):
        read_recipe(path, [])
    assert not owned.exists()


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_damaged_checkpoint_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    metadata = {"format": checkpoints.FORMAT, "config": "{}", "training": "{}"}
    path.write_bytes(data.draw(damaged(save({"x": torch.zeros(2)}, metadata))))
    for read in (checkpoints.read_checkpoint, checkpoints.read_release):
        with read_or_refused():
            read(path)


def test_a_pickle_with_code_is_refused(tmp_path: Path) -> None:
    owned = tmp_path / "owned"
    path = tmp_path / "weights.pt"
    path.write_bytes(b"cos\nsystem\n(S'touch " + str(owned).encode() + b"'\ntR.")
    for read in (checkpoints.read_checkpoint, checkpoints.read_release):
        with refused("weights.pt"):
            read(path)
    assert not owned.exists()


@settings(deadline=None, max_examples=60)
@given(text=st.one_of(st.text(max_size=60), st.from_regex(r'\{"q\.jpg": \{[ -~]{0,40}\}\}')))
def test_any_log_of_a_localization(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    poses = tmp_path_factory.getbasetemp() / "poses.txt"
    poses.write_text("q.jpg 1 0 0 0 0 0 0\n")
    log_path(poses).write_bytes(text.encode("utf-8", "surrogatepass"))
    sidecar(poses).write_bytes(text.encode("utf-8", "surrogatepass"))
    for read in (read_result, read_sidecar):
        with read_or_refused():
            read(poses)


def test_what_the_machine_lacks_is_named() -> None:
    assert "disk is full" in str(cause_of(OSError(28, "No space left on device")))
    assert "memory" in str(cause_of(RuntimeError("DefaultCPUAllocator: can't allocate memory")))
    assert "open files" in str(cause_of(OSError("unable to open file (errno = 24, message)")))
    assert cause_of(ValueError("a bug")) is None
