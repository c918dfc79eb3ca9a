"""Nothing silent: photos that a folder loses, results of files that do not belong together, hangs.

Each kind is one that users of such programs have met. A photo is lost where it is neither in the
output nor named; a result is silently wrong where files that do not fit are taken; a command hangs
where it has not ended in time.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import children
from budget import left
from stages import City, inspect
from tally import Tally

SECONDS = 240  # of a command, on a slow machine
KEPT = "every photo of the folder is in the output, or named in what the command says"
REFUSED = "refused in one line before work starts; no output"
ENDS = f"the command ends by itself, within {SECONDS} s"


@dataclass(frozen=True)
class Folder:
    """A folder of photos and what is to be done with it.

    photos: all that a user would call a photo, relative to it.
    refused: those that have to be named where it is refused for them; nothing is done then.
    command: on it.
    taken: the names in the output, found in a child.
    """

    name: str
    photos: list[str]
    command: list[str | Path]
    taken: Callable[[], list[str]]
    refused: tuple[str, ...] = ()


def try_all(city: City, tally: Tally, deadline: float) -> None:
    """Every kind, each in a process of its own."""
    root = city.folder / "silent"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    made = children.run(lambda: _build(city, root))
    if made.code or made.timed_out:
        raise SystemExit(f"the photos could not be made: {made.how()}")
    hung, commands = [], 0
    for case in _folders(city, root):
        if not left(deadline) and commands:
            break
        ended = children.run(children.command(case.command), timeout=SECONDS)
        commands += 1
        if ended.timed_out:
            hung.append(case.name)
            continue
        lost = _lost(case, ended)
        tally.add("silent", case.name, KEPT,
                  [f"{name}: neither in the output nor named" for name in lost]
                  or [f"{len(case.photos)} photos: {ended.how()[:120].replace(str(root), '...')}"],
                  tried=len(case.photos), lost=len(lost))  # fmt: skip
    wrong = []
    joins = list(_joins(city, root))
    for name, command, output in joins:
        ended = children.run(children.command(command), timeout=SECONDS)
        commands += 1
        if ended.timed_out:
            hung.append(name)
        elif not ended.refused or output.exists():
            wrong.append(f"{name}: {ended.how()}")
    tally.add("silent", "files that do not belong together", REFUSED,
              wrong or ["all refused in one line"], tried=len(joins), lost=len(wrong))  # fmt: skip
    for name, command in _endless(city, root):
        commands += 1
        if children.run(children.command(command), timeout=SECONDS).timed_out:
            hung.append(name)
    tally.add("hang", "all of these, loops of links, photos of no place", ENDS,
              [f"{name}: hung" for name in hung] or [f"{commands} commands, each ended"],
              tried=commands, lost=len(hung))  # fmt: skip


def _lost(case: Folder, ended: children.Ended) -> list[str]:
    """Photos that are neither in the output nor named."""
    taken = set(inspect(case.taken)) if ended.code == 0 else set()
    said = ended.output
    photos = case.refused if ended.refused and case.refused else case.photos
    unsaid = [name for name in photos if name not in taken and not _named(name, said)]
    # A folder that is left out by name is named for all that is in it.
    return [n for n in unsaid if not any(f"{part}/ (" in said for part in _folders_of(n))]


def _named(name: str, said: str) -> bool:
    return name in said or repr(name).strip("'") in said


def _folders_of(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[: i + 1]) for i in range(len(parts) - 1)]


def _build(city: City, root: Path) -> None:
    """The folders; in a child, as encoders start threads."""
    import numpy as np
    from PIL import Image, features

    photo = Image.open(sorted((city.photos / "db").iterdir())[0]).convert("RGB")
    data = sorted((city.photos / "db").iterdir())[0].read_bytes()

    def save(path: Path, kind: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        photo.save(path, format=kind)

    formats = root / "formats"
    endings = {"jpg": "JPEG", "JPEG": "JPEG", "jfif": "JPEG", "png": "PNG", "tif": "TIFF",
               "bmp": "BMP", "ppm": "PPM", "webp": "WEBP", "gif": "GIF"}  # fmt: skip
    endings |= {"avif": "AVIF"} if "avif" in features.modules and features.check("avif") else {}
    endings |= {"jp2": "JPEG2000"} if features.check("jpg_2000") else {}
    for ending, kind in endings.items():
        save(formats / f"a_{ending}.{ending}", kind)
    for name in ("h.heic", "i.CR2", "j.jxl"):
        (formats / name).write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    (formats / "no_ending").write_bytes(data)
    (formats / "photo.jpg_large").write_bytes(data)
    save(formats / "webp_called.jpg", "WEBP")
    save(formats / ".hidden" / "k.jpg", "JPEG")
    (formats / "gone.jpg").symlink_to(root / "nothing.jpg")

    links, elsewhere = root / "links", root / "elsewhere"
    for i in range(5):
        save(elsewhere / "deep" / f"{i}.jpg", "JPEG")
    save(links / "own.jpg", "JPEG")
    (links / "linked").symlink_to(elsewhere)
    (links / "one.jpg").symlink_to(elsewhere / "deep" / "0.jpg")
    (links / "loop").symlink_to(links)
    (elsewhere / "back").symlink_to(links)
    os.mkfifo(links / "pipe.jpg")

    for name in ("#1.jpg", "my photo.jpg", "tab\tbed.jpg", "é.jpg", "ok.jpg"):
        save(root / "names" / name, "JPEG")

    broken = root / "broken"
    for i in range(4):
        save(broken / f"whole{i}.jpg", "JPEG")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8))
    noise.save(broken / "within.png")
    png = bytearray((broken / "within.png").read_bytes())
    png[len(png) // 2 : len(png) // 2 + 50] = bytes(50)
    (broken / "within.png").write_bytes(png)
    (broken / "cut.jpg").write_bytes(data[: len(data) // 2])
    (broken / "empty.jpg").touch()
    (broken / "page.jpg").write_text("<!DOCTYPE html><html>not found</html>")
    (broken / "lfs.jpg").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n")

    strangers = root / "strangers"
    for path in sorted((city.photos / "db").iterdir())[:8]:
        strangers.mkdir(exist_ok=True)
        shutil.copyfile(path, strangers / path.name)
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((256, 192)).save(strangers / f"stranger{i}.png")


def _folders(city: City, root: Path) -> Iterator[Folder]:
    def features(name: str) -> tuple[list[str | Path], Callable[[], list[str]]]:
        output = root / f"{name}.h5"
        command = ["features", "--images", root / name, "--output", output, "--max-keypoints", "64",
                   "--resize", "128"]  # fmt: skip
        return command, lambda: _groups(output)

    def photos(folder: Path, but: Sequence[str] = ()) -> list[str]:
        found = [Path(place, name).relative_to(folder).as_posix()
                 for place, _, names in os.walk(folder) for name in names]  # fmt: skip
        return sorted(name for name in found if name not in but)

    refused = {"names": ("#1.jpg", "my photo.jpg", "tab\tbed.jpg"),
               "broken": ("cut.jpg", "empty.jpg", "page.jpg", "lfs.jpg")}  # fmt: skip
    for name in ("formats", "links", "names", "broken"):
        command, taken = features(name)
        yield Folder(f"features: {name}", photos(root / name), command, taken,
                     refused.get(name, ()))  # fmt: skip
    # whose linked folders os.walk does not enter
    linked = ["own.jpg", "one.jpg", "pipe.jpg", *(f"linked/deep/{i}.jpg" for i in range(5))]
    command, taken = features("links")
    yield Folder("features: linked folders", linked, command, taken)
    for name in ("formats", "names", "broken"):
        yield Folder(f"check: {name}", [n for n in photos(root / name) if not _good(n)],
                     ["check", root / name], list)  # fmt: skip
    run = root / "run"
    train = [*city.stage("train").arguments(run)[:3], f"data.images={root / 'names'}",
             f"data.validation={city.photos}", f"output={run}", "train.steps=1", "train.batch=1",
             "pairs.crop=64", "pairs.points=16", "pairs.keypoints=16"]  # fmt: skip
    yield Folder("train: names", photos(root / "names"), train,
                 lambda: _packed(run / "photos.pack"))  # fmt: skip
    out = root / "sfm"
    yield Folder("reconstruct: photos of no place", photos(root / "strangers"),
                 ["reconstruct", root / "strangers", "--outputs", out, "--preset", "samfeat_fast"],
                 lambda: _registered(out / "sparse"))  # fmt: skip


def _good(name: str) -> bool:
    """Photos that `samfeat check` only counts."""
    return name.startswith(("whole", "ok", "é", "a_", "webp_")) and not name.endswith(".gif")


def _joins(city: City, root: Path) -> Iterator[tuple[str, list[str | Path], Path]]:
    """Commands on files that do not belong together, and the output that they must not leave."""
    few, out = root / "few.h5", root / "joined"
    made = children.run(children.command(
        ["features", "--images", city.photos, "--output", few, "--max-keypoints", "100",
         "--resize", "256"]), timeout=SECONDS)  # fmt: skip
    if made.code:
        raise SystemExit(f"features: {made.how()}")
    swapped = root / "swapped.h5"
    shutil.copyfile(city.features, swapped)
    children.run(lambda: _reversed(swapped))
    for name, features in (("fewer keypoints", few), ("keypoints in another order", swapped)):
        command = _with(city.stage("localize").arguments(out), "--features", features)
        yield f"localize: {name}", command, out / "poses.txt"
    command = _with(city.stage("map").arguments(out), "--features", few)
    yield "map: fewer keypoints", command, out / "map"


def _endless(city: City, root: Path) -> Iterator[tuple[str, list[str | Path]]]:
    yield "check: a loop of links", ["check", root / "links"]


def _with(command: list[str | Path], option: str, value: Path) -> list[str | Path]:
    changed = list(command)
    changed[changed.index(option) + 1] = value
    return changed


def _groups(path: Path) -> list[str]:
    import h5py

    from samfeat_hloc.files.h5arrays import group_names

    with h5py.File(path, "r") as file:
        return group_names(file, "keypoints")


def _packed(path: Path) -> list[str]:
    from samfeat_hloc.training.photos import PackedPhotos

    return list(PackedPhotos(path).names)


def _registered(sparse: Path) -> list[str]:
    from samfeat_hloc.colmap.model import read_model

    models = (path for path in sparse.iterdir() if path.is_dir())
    return [name for path in models for name in read_model(path).images]


def _reversed(path: Path) -> None:
    import h5py

    def reverse(name: str, item: Any) -> None:
        if name.startswith("db/") and name.endswith("/keypoints"):
            item[...] = item[()][::-1]

    with h5py.File(path, "a") as file:
        file.visititems(reverse)
