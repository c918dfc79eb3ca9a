"""The plugin in hloc: with the real one where it is installed, else with a stand-in.

The stand-in keeps to the contract of hloc's loader and configurations in a few lines of its own,
so that the import machinery is tried everywhere. Every test of it has a process of its own: what
counts is who was imported first.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from refusals import error_line, refused

from samfeat_hloc.hloc_plugin import hloc_installed

ROOT = Path(__file__).resolve().parents[1]
needs_hloc = pytest.mark.skipif(
    not hloc_installed(), reason="hloc is not installed (it is on no package index)"
)

STAND_IN = {
    "__init__.py": "__version__ = '1.5'",
    "utils/__init__.py": "",
    "utils/base_model.py": """
        import inspect
        from torch import nn

        class BaseModel(nn.Module):
            default_conf, required_inputs = {}, []
            def __init__(self, conf):
                super().__init__()
                self.conf = {**self.default_conf, **conf}
                self._init(self.conf)
            def forward(self, data):
                return self._forward(data)

        def dynamic_load(root, name):
            full = f"{root.__name__}.{name}"
            module = __import__(full, fromlist=[""])
            found = [c for _, c in inspect.getmembers(module, inspect.isclass)
                     if c.__module__ == full and issubclass(c, BaseModel)]
            assert len(found) == 1, found
            return found[0]
    """,
    "extractors/__init__.py": "",
    "extract_features.py": """
        from . import extractors
        from .utils.base_model import dynamic_load
        confs = {"own": {}}
        if __name__ == "__main__":
            import argparse
            parser = argparse.ArgumentParser()
            parser.add_argument("--conf", choices=list(confs))
            args = parser.parse_args()
            print("conf", args.conf, dynamic_load(extractors, "samfeat").__name__, __name__)
    """,
    "match_features.py": 'confs = {"own": {}}',
    "triangulation.py": "import pycolmap",
}


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A folder with a package named hloc, to be put on the path."""
    for name, text in STAND_IN.items():
        path = tmp_path / "stand_in" / "hloc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return tmp_path / "stand_in"


@pytest.fixture(params=["stand-in", "real"])
def hloc_path(request: pytest.FixtureRequest, stand_in: Path) -> list[Path]:
    """What to put on the path so that hloc is there."""
    if request.param == "real" and not hloc_installed():
        pytest.skip("hloc is not installed (it is on no package index)")
    return [stand_in] if request.param == "stand-in" else []


def python(*arguments: str, path: list[Path] | None = None) -> subprocess.CompletedProcess[str]:
    given = os.environ.get("PYTHONPATH")  # where the real hloc may be
    folders = [*map(str, path or []), str(ROOT), *([given] if given else [])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def run(code: str, path: list[Path] | None = None) -> str:
    done = python("-c", textwrap.dedent(code), path=path)
    assert done.returncode == 0, done.stderr
    return done.stdout


BLOCK_HLOC = "import sys; sys.modules['hloc'] = None\n"


def test_without_hloc_nothing_extra_is_imported() -> None:
    code = BLOCK_HLOC + textwrap.dedent("""
        import samfeat_hloc
        heavy = {"torchvision", "segment_anything", "skimage", "kornia", "matplotlib"}
        print(sorted(heavy & set(sys.modules)), [m for m in sys.modules if m.startswith("hloc.")])
    """)
    assert run(code) == "[] []\n"


def test_import_does_not_import_hloc(hloc_path: list[Path]) -> None:
    code = "import sys, samfeat_hloc; print([m for m in sys.modules if m.split('.')[0] == 'hloc'])"
    assert run(code, hloc_path) == "[]\n"


def test_without_hloc_register_says_how_to_install_it() -> None:
    code = BLOCK_HLOC + "import samfeat_hloc; print(samfeat_hloc.register())"
    done = python("-W", "always", "-c", code)
    assert done.returncode == 0 and done.stdout == "False\n"
    assert done.stderr.count("hloc is not installed") == 1
    assert "git+https://github.com/cvg/Hierarchical-Localization" in done.stderr


def test_without_hloc_the_runner_says_how_to_install_it() -> None:
    code = BLOCK_HLOC + (
        "from samfeat_hloc.hloc import main; sys.exit(main(['extract_features', '--help']))"
    )
    done = python("-c", code)
    assert done.returncode == 1
    error_line(done.stderr, "hloc", "pip install")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("order", ["samfeat_hloc first", "hloc first", "between"])
def test_registered_in_any_order(order: str, hloc_path: list[Path]) -> None:
    ours = "import samfeat_hloc"
    theirs = "from hloc import extract_features, match_features, extractors"
    first = {
        "samfeat_hloc first": [ours, theirs],
        "hloc first": [theirs, ours],
        "between": ["import hloc, hloc.extract_features", ours, theirs],
    }[order]
    code = "\n".join(
        [
            *first,
            "import samfeat_hloc; assert samfeat_hloc.register() and samfeat_hloc.register()",
            "from hloc.utils.base_model import dynamic_load",
            "print(dynamic_load(extractors, 'samfeat').__module__)",
            "print(*[c for c in extract_features.confs if 'samfeat' in c])",
            "print(*[c for c in match_features.confs if 'samfeat' in c])",
        ]
    )
    assert run(code, hloc_path).splitlines() == [
        "hloc.extractors.samfeat",
        "samfeat_aachen samfeat_multiscale samfeat_max samfeat_fast samfeat_official samfeat_vlad",
        "NN-samfeat NN-samfeat_official samfeat+lightglue",
    ]


def test_a_failure_of_ours_leaves_hloc_working(stand_in: Path) -> None:
    (stand_in / "hloc" / "match_features.py").write_text("answer = 42  # no confs here")
    code = "import samfeat_hloc, hloc.match_features; print(hloc.match_features.answer)"
    done = python("-c", code, path=[stand_in])
    assert (done.returncode, done.stdout) == (0, "42\n")
    assert "SAMFeat could not be added to hloc.match_features" in done.stderr


def test_a_folder_named_hloc_is_not_hloc(tmp_path: Path) -> None:
    (tmp_path / "hloc").mkdir()
    code = """
        import pathlib, sys
        sys.path = [p for p in sys.path if not pathlib.Path(p, "hloc", "__init__.py").exists()]
        from importlib.util import spec_from_file_location, module_from_spec
        import importlib, types
        package = types.ModuleType("samfeat_hloc"); package.__path__ = [sys.argv[1]]
        sys.modules["samfeat_hloc"] = package
        print(importlib.import_module("samfeat_hloc.hloc_plugin").hloc_installed())
    """
    done = python(
        "-c", textwrap.dedent(code), str(ROOT / "samfeat_hloc"), path=[tmp_path]
    )  # fmt: skip
    assert done.stdout == "False\n", done.stderr


def test_runner_runs_the_command_line_with_our_configurations(stand_in: Path) -> None:
    done = python(
        "-m", "samfeat_hloc.hloc", "extract_features", "--conf", "samfeat_aachen", path=[stand_in]
    )
    # the module itself, not a second copy under the name __main__
    assert done.stdout == "conf samfeat_aachen SAMFeat hloc.extract_features\n", done.stderr


def test_runner_lists_our_configurations(hloc_path: list[Path]) -> None:
    done = python("-m", "samfeat_hloc.hloc", "hloc.extract_features", "--help", path=hloc_path)
    assert done.returncode == 0, done.stderr
    assert "usage: extract_features.py" in done.stdout and "samfeat_fast" in done.stdout


@pytest.mark.parametrize(
    ("module", "word"), [("no_such", "module"), ("match_features", "command line")]
)
def test_runner_refuses(module: str, word: str, stand_in: Path) -> None:
    done = python("-m", "samfeat_hloc.hloc", module, path=[stand_in])
    assert done.returncode == 1
    error_line(done.stderr, module, word, "extract_features")
    assert len(done.stderr.splitlines()) == 1


def test_configurations_are_the_presets() -> None:
    from samfeat_hloc.feature.presets import MATCH_DISTANCE_THRESHOLD, PRESETS
    from samfeat_hloc.hloc_plugin import configurations

    confs = configurations.extractors()
    assert set(confs) == {*PRESETS, "samfeat_vlad"}
    assert len({conf["output"] for conf in confs.values()}) == len(confs)
    for name, options in PRESETS.items():
        conf = confs[name]
        given = {**conf["model"], "resize": conf["preprocessing"]["resize_max"]}
        given["resize_force"] = conf["preprocessing"]["resize_force"]
        assert {k: given[k] for k in options.asdict()} == options.asdict()
        assert conf["preprocessing"]["grayscale"] is False
    assert confs["samfeat_aachen"]["preprocessing"]["resize_max"] == 1024
    assert confs["samfeat_aachen"]["model"]["max_keypoints"] == 4096
    assert confs["samfeat_max"]["preprocessing"]["resize_max"] == 1600
    assert confs["samfeat_max"]["preprocessing"]["resize_force"] is True
    matcher = configurations.matchers()["NN-samfeat"]["model"]
    assert matcher["do_mutual_check"] is True
    assert matcher["distance_threshold"] == MATCH_DISTANCE_THRESHOLD


def test_other_weights_another_feature_file(tmp_path: Path) -> None:
    from samfeat_hloc.hloc_plugin import configurations

    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    outputs = {
        configurations.extractors(weights=weights)["samfeat_aachen"]["output"]
        for weights in (None, str(tmp_path / "a"), str(tmp_path / "b"))
    }
    assert len(outputs) == 3
    with refused("missing"):
        configurations.extractors(weights=str(tmp_path / "missing"))


def test_an_hloc_older_than_pycolmap_is_refused(stand_in: Path) -> None:
    (stand_in / "hloc" / "__init__.py").write_text("__version__ = '1.4'")
    said = run(
        """
        import samfeat_hloc, contextlib, io, sys
        from samfeat_hloc import doctor, hloc_plugin
        from samfeat_hloc.errors import SamfeatError
        from samfeat_hloc.hloc_plugin import calls
        from hloc import extract_features  # its extractor works all the same
        print("samfeat_aachen" in extract_features.confs)
        with contextlib.redirect_stderr(sys.stdout):
            from hloc import triangulation  # warns
        try:
            calls.check_installed()
        except SamfeatError as error:
            print(error)
        print([f.text for f in doctor._hloc_mapping("1.4") if f.level == "wrong"])
        """,
        [stand_in],
    ).splitlines()
    assert said[0] == "True"
    assert len(said) == 4
    assert "--engine hloc" in said[2]
    for line in said[1:]:
        assert "1.4" in line and "pip install --upgrade" in line


def test_two_view_geometries_are_marked_calibrated(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pycolmap

    monkeypatch.delitem(sys.modules, "hloc", raising=False)  # its version decides

    from samfeat_hloc.hloc_plugin import compat

    module = type(sys)("hloc.triangulation")
    module.pycolmap = pycolmap  # type: ignore[attr-defined]
    compat.mend(module)
    compat.mend(module)
    seen = module.pycolmap
    kinds = pycolmap.TwoViewGeometryConfiguration
    matches = np.zeros((3, 2), np.uint32)
    with caplog.at_level("WARNING", logger="hloc.samfeat"):
        for _ in range(2):
            assert seen.TwoViewGeometry(inlier_matches=matches).config == kinds.CALIBRATED
    assert len(caplog.records) == (pycolmap.__version__ >= "4")  # once
    assert seen.TwoViewGeometry().config == kinds.UNDEFINED  # no matches: nothing to say
    planar = seen.TwoViewGeometry(inlier_matches=matches, config=kinds.PLANAR)
    assert planar.config == kinds.PLANAR
    assert seen.Database is pycolmap.Database and seen.__version__ == pycolmap.__version__
    geometry = pycolmap.TwoViewGeometry(inlier_matches=matches)  # pycolmap itself is as it was
    assert geometry.config == kinds.UNDEFINED


def test_what_pycolmap_does_with_undefined_pairs(tmp_path: Path) -> None:
    import pycolmap

    from samfeat_hloc.hloc_plugin import trial

    major = int(pycolmap.__version__.split(".")[0])
    assert trial.pycolmap_ignores_undefined(tmp_path) == (major >= 4)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of random weights."""
    import torch

    from samfeat_hloc.feature.checkpoints import write_checkpoint
    from samfeat_hloc.feature.network import SAMFeat

    torch.manual_seed(0)
    model = SAMFeat()
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    write_checkpoint(path, model.state_dict(), model.config, {}, dtype=torch.float32)
    return path


@needs_hloc
def test_hloc_maps_with_this_pycolmap(tmp_path: Path) -> None:
    from samfeat_hloc.hloc_plugin import register, trial

    register()
    assert trial.hloc_points(tmp_path) == trial.NUM_POINTS


@needs_hloc
def test_command_line_of_triangulation(tmp_path: Path) -> None:
    """hloc's own always fails: it reads an option that it does not declare."""
    import pycolmap

    from samfeat_hloc.hloc_plugin import trial

    scene = trial.write_scene(tmp_path)
    files = [
        f"--sfm_dir={tmp_path / 'map'}",
        f"--reference_sfm_model={scene.reference_model}",
        f"--image_dir={scene.image_dir}",
        f"--pairs={scene.pairs}",
        f"--features={scene.features}",
        f"--matches={scene.matches}",
    ]
    done = python("-m", "samfeat_hloc.hloc", "triangulation", *files)
    assert done.returncode == 0, done.stderr
    assert len(pycolmap.Reconstruction(tmp_path / "map").points3D) == trial.NUM_POINTS


@needs_hloc
@pytest.mark.parametrize("conf", ["samfeat_fast", "samfeat_official"])
def test_hloc_extracts_what_we_extract(
    conf: str, shared: Path, weights: Path, tmp_path: Path
) -> None:
    import h5py
    import torch
    from hloc import extract_features

    from samfeat_hloc.feature.extraction import detect_and_describe
    from samfeat_hloc.feature.network import SAMFeat
    from samfeat_hloc.feature.presets import PRESETS
    from samfeat_hloc.hloc_plugin import configurations, register

    register()
    images = shared / "data" / "town" / "images_upright"
    name = "db/fountain-P11_0000.jpg"
    made = configurations.extractor(conf, PRESETS[conf], weights=str(weights))
    made["model"].update(precision="float32", max_keypoints=500, detection_threshold=0.01)
    made["preprocessing"]["resize_max"] = 400
    path = extract_features.main(made, images, tmp_path, image_list=[name], as_half=True)
    with h5py.File(path, "r") as file:
        stored = {k: v[()] for k, v in file[name].items()}
        uncertainty = file[name]["keypoints"].attrs["uncertainty"]

    data = extract_features.ImageDataset(images, made["preprocessing"], [name])[0]
    image = torch.from_numpy(data["image"])[None]
    height, width = image.shape[-2:]
    assert max(height, width) == 400
    scale = 1536 / 400
    assert uncertainty == pytest.approx(scale, rel=1e-2)
    assert list(stored["image_size"]) == [1536, 1024]
    count = stored["keypoints"].shape[0]
    assert 0 < count <= 500
    assert stored["keypoints"].dtype == np.float64  # float16 would be whole pixels
    assert np.abs(stored["keypoints"] % 0.125).max() > 1e-3
    assert stored["descriptors"].shape == (128, count)
    if conf == "samfeat_official":  # both sides to multiples of 16, back to the frame given
        assert (height, width) == (267, 400)
        return
    from dataclasses import replace

    options = replace(
        PRESETS[conf], precision="float32", max_keypoints=500, detection_threshold=0.01
    )
    model = SAMFeat.from_pretrained(weights, device="cpu")
    expected = detect_and_describe(model, image, options)[0]
    sides = np.array([1536 / width, 1024 / height])
    keypoints = (expected["keypoints"].numpy() + 0.5) * sides - 0.5
    np.testing.assert_allclose(stored["keypoints"], keypoints, atol=1e-3)
    np.testing.assert_allclose(stored["descriptors"], expected["descriptors"], atol=1e-3)
    norms = np.linalg.norm(stored["descriptors"].astype(np.float32), axis=0)
    np.testing.assert_allclose(norms, 1, atol=2e-3)
