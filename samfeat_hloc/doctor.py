"""``samfeat doctor``: what is installed, what works with what, and what is wrong."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import logging
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

from .errors import SamfeatError
from .hloc_plugin import HLOC_ADDRESS, hloc_installed, register
from .version import LEAST_PYCOLMAP, __version__

Severity = Literal["ok", "note", "wrong"]
# In a process of its own: where pycolmap's zlib and the system's mix, this one dies.
_COMPRESS = "import pycolmap, zlib; zlib.compress(bytes(1000000))"
LEAST_PYTHON = (3, 10)


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report.

    level: "ok"; "note" for what a user may want to know; "wrong" for what is needed and broken.
    subject: what it is about.
    text: what was found, and for what is wrong, the mend.
    """

    level: Severity
    subject: str
    text: str


def examine() -> list[Finding]:
    """Look at everything that the package works with. Nothing is changed, nothing raised."""
    findings: list[Finding] = []
    checks: list[tuple[str, Callable[[], list[Finding]]]] = [
        ("python", _python),
        ("samfeat_hloc", _package),
        ("torch", _torch),
        ("pycolmap", _pycolmap),
        ("opencv", _opencv),
        ("h5py", lambda: _needed("h5py", "h5py", "hloc's feature and match files")),
        ("kornia", lambda: _optional("kornia", "some extractors and matchers of hloc")),
        ("extraction", _extraction),
        ("native mapping", _native_mapping),
        ("hloc", _hloc),
    ]
    logging.disable(logging.WARNING)  # the report is all there is to read
    try:
        for subject, check in checks:
            try:
                findings += check()
            except Exception as error:  # one broken package must not hide what ails the others
                text = f"{type(error).__name__}: {_line(error)}"
                findings.append(Finding("wrong", subject, text))
    finally:
        logging.disable(logging.NOTSET)
    return findings


def report(findings: list[Finding]) -> str:
    """The findings as text, one a line."""
    lines = [f"{f.level:<6} {f.subject:<15} {f.text}" for f in findings]
    wrong = sum(f.level == "wrong" for f in findings)
    notes = sum(f.level == "note" for f in findings)
    end = f"{wrong} wrong" if wrong else "everything needed works"
    return "\n".join([*lines, f"{end}; {notes} note{'' if notes == 1 else 's'}"])


def _python() -> list[Finding]:
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info[:2] < LEAST_PYTHON:
        return [Finding("wrong", "python", f"{text}; samfeat_hloc needs 3.10 or newer")]
    return [Finding("ok", "python", text)]


def _package() -> list[Finding]:
    from .feature import checkpoints

    findings = [Finding("ok", "samfeat_hloc", f"{__version__} in {Path(__file__).parent}")]
    try:
        checkpoint = checkpoints.read_checkpoint(checkpoints.resolve(None))
    except SamfeatError as error:
        mend = "reinstall samfeat_hloc, or give your own with --weights"
        return [*findings, Finding("wrong", "checkpoint", f"{_line(error)} [{mend}]")]
    text = f"{checkpoint.path.name}, SHA-256 {checkpoint.sha256[:16]}..."
    return [*findings, Finding("ok", "checkpoint", text)]


def _torch() -> list[Finding]:
    import torch

    from .feature.levels import fast_bfloat16
    from .parallel.devices import available

    def device(name: str, what: str) -> str:
        bf16 = "fast bfloat16" if fast_bfloat16(torch.device(name)) else "no fast bfloat16"
        return f"{what} ({bf16})"

    devices = [device("cpu", f"CPU with {torch.get_num_threads()} threads")]
    for index in range(torch.cuda.device_count()):
        devices.append(device(f"cuda:{index}", torch.cuda.get_device_name(index)))
    devices += [device(name, name) for name in available() if name[:3] in ("mps", "xpu")]
    return [Finding("ok", "torch", f"{torch.__version__}; {', '.join(devices)}")]


def _pycolmap() -> list[Finding]:
    pycolmap, missing = _import("pycolmap")
    if pycolmap is None:
        mend = 'pip install "pycolmap>=3.13"'
        return [Finding("wrong", "pycolmap", f"{missing}; mapping and poses need it: {mend}")]
    version = pycolmap.__version__
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if version != "dev" and numbers < LEAST_PYCOLMAP:
        text = f'{version} is too old; pip install --upgrade "pycolmap>=3.13"'
        return [Finding("wrong", "pycolmap", text)]
    cuda = "with CUDA" if pycolmap.has_cuda else "CPU only"
    findings = [Finding("ok", "pycolmap", f"{version}, {cuda}")]
    if subprocess.run([sys.executable, "-c", _COMPRESS], capture_output=True).returncode < 0:
        text = (
            "Python aborts when it compresses (a PNG, an .npz) after `import pycolmap` as the first"
            " import; in scripts of your own, import samfeat_hloc or zlib before pycolmap"
        )
        findings.append(Finding("note", "pycolmap", text))
    return findings


def _opencv() -> list[Finding]:
    findings = _needed("cv2", "opencv-python-headless", "resizing images")
    builds = [
        name
        for name in ("opencv-python", "opencv-python-headless", "opencv-contrib-python")
        if _version(name) is not None
    ]
    if len(builds) > 1:
        text = f"{' and '.join(builds)} overwrite each other's cv2; uninstall all but one"
        findings.append(Finding("note", "opencv", text))
    return findings


def _extraction() -> list[Finding]:
    import numpy as np

    from .feature.extraction import extract_batch
    from .feature.network import SAMFeat
    from .feature.options import ExtractOptions

    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    model = SAMFeat()  # random weights: the checkpoint has its own line
    features = extract_batch(model, [image], ExtractOptions(detection_threshold=0.0))[0]
    if len(features["keypoints"]) == 0 or not np.isfinite(features["descriptors"]).all():
        text = "a trial image gives no keypoints or descriptors with NaN; reinstall torch"
        return [Finding("wrong", "extraction", text)]
    return [Finding("ok", "extraction", "a trial image goes through the network")]


def _native_mapping() -> list[Finding]:
    from .hloc_plugin import trial
    from .localization import mapping
    from .localization.inputs import MappingInputs

    with tempfile.TemporaryDirectory() as folder:
        scene = trial.write_scene(Path(folder))
        with trial.quiet():
            inputs = MappingInputs(
                scene.reference_model, scene.image_dir, scene.pairs, scene.features, scene.matches
            )
            output = mapping.main(inputs, Path(folder) / "map")
        from .colmap.library import pycolmap

        count = len(pycolmap.Reconstruction(output).points3D)
    return [_mapped("native mapping", count)]


def _hloc() -> list[Finding]:
    if not hloc_installed():
        text = (
            "not installed (--engine hloc, --retrieval netvlad and the plugin want it):"
            f' pip install "hloc @ {HLOC_ADDRESS}"'
        )
        return [Finding("note", "hloc", text)]
    hloc, missing = _import("hloc")
    if hloc is None:
        return [Finding("wrong", "hloc", f"{missing}; reinstall it, or uninstall it")]
    version = hloc.__version__
    findings = [Finding("ok", "hloc", f"{version} in {Path(str(hloc.__file__)).parent}")]
    findings.append(_registration())
    findings += _hloc_mapping(version)
    for module, lacking in (
        ("torchvision", "netvlad, megaloc, openibl, r2d2 and match_dense"),
        ("lightglue", "the matchers lightglue and samfeat+lightglue and the extractor aliked"),
    ):
        if importlib.util.find_spec(module) is None:
            text = f"without {module}, {lacking} do not load (SAMFeat does not need it)"
            findings.append(Finding("note", "hloc", text))
    return findings


def _registration() -> Finding:
    from .hloc_plugin import configurations

    register(quiet=True)
    from hloc import extract_features, extractors, match_features
    from hloc.utils.base_model import dynamic_load

    dynamic_load(extractors, "samfeat")
    wanted = set(configurations.extractors()) | set(configurations.matchers())
    lacking = wanted - set(extract_features.confs) - set(match_features.confs)
    if lacking:
        text = f"hloc lacks the configurations {', '.join(sorted(lacking))}; reinstall both"
        return Finding("wrong", "hloc plugin", text)
    return Finding("ok", "hloc plugin", f"registered: {', '.join(sorted(wanted))}")


def _hloc_mapping(version: str) -> list[Finding]:
    from .colmap.library import pycolmap
    from .hloc_plugin import compat, trial

    both = f"hloc {version} with pycolmap {pycolmap.__version__}"
    if compat.is_outdated(version):
        text = compat.outdated(version, pycolmap.__version__)
        return [Finding("wrong", "hloc mapping", text)]
    findings = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            count = trial.hloc_points(Path(folder) / "hloc")
        except (AttributeError, TypeError, ValueError, RuntimeError) as error:
            text = (
                f"{both} do not work together ({_line(error)});"
                f' pip install --upgrade "hloc @ {HLOC_ADDRESS}"'
            )
            return [Finding("wrong", "hloc mapping", text)]
        findings.append(_mapped("hloc mapping", count))
        if trial.pycolmap_ignores_undefined(Path(folder) / "pycolmap"):
            text = (
                f"{both} would build maps without points (pairs of undefined geometry are"
                " ignored); samfeat_hloc mends it: import samfeat_hloc before you map, or run"
                " `python -m samfeat_hloc.hloc`"
            )
            findings.append(Finding("note", "hloc mapping", text))
    return findings


def _mapped(subject: str, count: int) -> Finding:
    from .hloc_plugin.trial import NUM_POINTS

    text = f"{count} of {NUM_POINTS} points of a trial scene triangulated"
    if count < NUM_POINTS / 2:
        text += '; install another pycolmap: pip install "pycolmap==3.13.0"'
        return Finding("wrong", subject, text)
    return Finding("ok", subject, text)


def _needed(module: str, distribution: str, purpose: str) -> list[Finding]:
    imported, missing = _import(module)
    subject = distribution.split("-")[0]
    if imported is None:
        text = f"{missing}; {purpose} needs it: pip install {distribution}"
        return [Finding("wrong", subject, text)]
    return [Finding("ok", subject, str(getattr(imported, "__version__", "installed")))]


def _optional(module: str, purpose: str) -> list[Finding]:
    if importlib.util.find_spec(module) is None:
        return [Finding("note", module, f"not installed (only {purpose} want it)")]
    imported, missing = _import(module)
    if imported is None:
        text = f"{missing}; reinstall or uninstall it"
        return [Finding("note", module, text)]
    return [Finding("ok", module, str(getattr(imported, "__version__", "installed")))]


def _import(module: str) -> tuple[ModuleType | None, str]:
    """A module, or None and why it cannot be imported."""
    try:
        return importlib.import_module(module), ""
    except Exception as error:  # a broken binary package raises anything
        if isinstance(error, ModuleNotFoundError) and error.name == module:
            return None, "not installed"
        return None, f"cannot be imported ({type(error).__name__}: {_line(error)})"


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else "no message"
