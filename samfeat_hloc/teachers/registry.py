"""Teachers by name; a teacher's module, and the packages it needs, load when it is asked for.

Any installed package may bring teachers of its own: an entry point in the group
``samfeat_hloc.teachers`` whose name is the teacher's and which leads to a function
``load(options, device)`` (or a class) that makes a :class:`Teacher` from :class:`TeacherOptions`
and a device such as "cuda:0".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..errors import SamfeatError
from .cache import Taught

TEACHERS = {
    "regions": "regions",
    "labels": "labels",
    "sam": "sam",
    "dinov2": "dinov2",
    "sam+dinov2": "sam_dinov2",
}
ENTRY_POINTS = "samfeat_hloc.teachers"


@dataclass(frozen=True)
class Photo:
    """A photo to look at: its name relative to the image folder, and RGB uint8 (H, W, 3)."""

    name: str
    pixels: np.ndarray


class Teacher(Protocol):
    """What looks at photos. name: as it is written into caches. config: every option that changes
    what it says, plain JSON values. weights_sha256: of its weights, None where it has none."""

    name: str
    config: Mapping[str, Any]
    weights_sha256: str | None

    def teach(self, photos: Sequence[Photo]) -> list[Taught]:
        """What it says of each photo of a batch."""
        ...


@dataclass(frozen=True)
class TeacherOptions:
    """How to make a teacher; each takes what it needs.

    weights: checkpoint of `sam` or `dinov2`. dinov2_weights: that of DINOv2 in `sam+dinov2`.
    label_dir: folder of `labels`' label maps. dinov2_model: timm's name, where weights are not
    given. points_per_side, points_per_batch, iou_threshold, stability_threshold: of SAM's automatic
    mask generator.
    """

    weights: Path | None = None
    dinov2_weights: Path | None = None
    label_dir: Path | None = None
    dinov2_model: str = "vit_base_patch14_dinov2.lvd142m"
    points_per_side: int = 32
    points_per_batch: int = 64
    iou_threshold: float = 0.88
    stability_threshold: float = 0.95

    def generator_config(self) -> dict[str, Any]:
        """The mask generator's part."""
        return {key: value for key, value in asdict(self).items()
                if key in ("points_per_side", "iou_threshold", "stability_threshold")}  # fmt: skip


def load_teacher(name: str, options: TeacherOptions, device: str) -> Teacher:
    """The teacher of that name, ready on a device.

    Raises:
        SamfeatError: no such teacher, a package or file that it needs is missing, or another
            package's entry point that does not load or is no teacher.
    """
    if name in TEACHERS:
        module = import_module(f"{__package__}.{TEACHERS[name]}")
        teacher: Teacher = module.load(options, device)
        return teacher
    others = {point.name: point for point in metadata.entry_points(group=ENTRY_POINTS)}
    if name not in others:
        known = ", ".join([*TEACHERS, *sorted(set(others) - set(TEACHERS))])
        raise SamfeatError(f"--teacher {name}", "no such teacher", f"choose from {known}")
    return _from_entry_point(others[name], options, device)


def _from_entry_point(point: metadata.EntryPoint, options: TeacherOptions, device: str) -> Teacher:
    """The teacher that another package brings."""
    try:
        load = point.load()
    except (ImportError, AttributeError) as error:
        raise SamfeatError(
            f"--teacher {point.name}",
            f"{point.value} does not load ({error})",
            "mend or reinstall the package that brings it",
        ) from None
    teacher: Teacher = load(options, device)
    lacking = [part for part in ("name", "config", "weights_sha256", "teach")
               if not hasattr(teacher, part)]  # fmt: skip
    if lacking:
        raise SamfeatError(
            f"--teacher {point.name}",
            f"what {point.value} makes has no {lacking[0]}",
            "see Teacher in samfeat_hloc.teachers.registry",
        )
    return teacher


def need(package: str, purpose: str) -> Any:
    """Import an optional package.

    Raises:
        SamfeatError: it is not installed, or does not load.
    """
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        missing = error.name or package
        raise SamfeatError(
            purpose, f"needs the package {missing}", "pip install samfeat_hloc[train]"
        ) from None
    except (ImportError, RuntimeError, OSError) as error:
        # torchvision's compiled part fits one build of torch, and fails so beside any other.
        why = next(iter(str(error).splitlines()), type(error).__name__)
        fitting = "torchvision" if "torchvision" in why else package
        raise SamfeatError(
            purpose,
            f"{package} does not work with torch {version('torch')} ({why})",
            f"install the {fitting} that belongs to this torch",
        ) from None


def weights_file(path: Path | None, teacher: str, advice: str) -> Path:
    """A checkpoint file that was given and is there."""
    if path is None:
        raise SamfeatError(f"teacher {teacher}", f"give its checkpoint with --weights ({advice})")
    if not path.is_file():
        raise SamfeatError(path, "no such checkpoint", f"give the path of {advice}")
    return path
