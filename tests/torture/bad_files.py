"""Bad inputs for every parser: known nasty ones by the command line, and random damage."""

from __future__ import annotations

import json
import random
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import children
import numpy as np
from budget import left, short
from stages import City
from tally import Tally

PROMISE = "one line that names the file, within 60 s and 2 GB; no traceback, crash or hang"
SECONDS, MEGABYTES = 60, 2000
LEAST = 5  # files of each parser, whatever the time
BAD_NAMES = ("../outside.jpg", "/etc/passwd", "C:/a.jpg", "db/../../a.jpg", "a\\b.jpg", "db//a.jpg")


@dataclass(frozen=True)
class Bad:
    """A file that a command has to refuse."""

    name: str
    command: list[str | Path]


def try_all(city: City, tally: Tally, deadline: float) -> None:
    """Every known nasty file, each in a process of its own, as far as the time goes.

    The first of each parser are always tried.
    """
    folder = city.folder / "bad"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    rows: dict[str, list[tuple[str, str]]] = {}
    counts: dict[str, int] = {}
    untried: dict[str, int] = {}
    for parser, bad in _cases(city, folder):
        if counts.get(parser, 0) >= LEAST and not left(deadline):
            untried[parser] = untried.get(parser, 0) + 1
            continue
        shutil.rmtree(city.folder / "bad-out", ignore_errors=True)
        limits = (children.memory(MEGABYTES),)
        ended = children.run(children.command(bad.command), limits, SECONDS)
        counts[parser] = counts.get(parser, 0) + 1
        rows.setdefault(parser, [])
        if not ended.refused:
            rows[parser].append((bad.name, ended.how()))
    for parser, lost in rows.items():
        tally.add("bad input", parser, PROMISE,
                  ([f"{name}: {how}" for name, how in lost] or ["all refused in one line"])
                  + short(counts[parser], counts[parser] + untried.get(parser, 0), "files"),
                  tried=counts[parser], lost=len(lost))  # fmt: skip


def _cases(city: City, folder: Path) -> Iterator[tuple[str, Bad]]:
    out = city.folder / "bad-out"
    localize = city.stage("localize").arguments(out)
    mapping = city.stage("map").arguments(out)
    match = city.stage("match").arguments(out)
    extract = city.stage("extract").arguments(out)
    train = city.stage("train").arguments(out)

    def write(name: str, data: bytes | str) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return path

    query = Path(city.lists[0]).read_text().splitlines()[0].split()
    camera = " ".join(query[1:])
    texts = {
        "empty": "", "binary": bytes(range(256)) * 40, "latin-1": "caf\xe9.jpg x".encode("latin-1"),
        "one word": "lonely\n", "a line of 20 MB": "a" * 20_000_000,
        **{f"name {name}": f"{name} {camera}\n" for name in BAD_NAMES},
        "NaN focal length": f"{query[0]} PINHOLE 256 192 nan nan 1 1\n",
        "size 1e99": f"{query[0]} PINHOLE 1e99 192 1 1 1 1\n",
        "unknown model": f"{query[0]} FISHY 256 192 1 1 1 1\n",
    }  # fmt: skip
    for number, (name, text) in enumerate(texts.items()):
        path = write(f"{number}_time_queries_with_intrinsics.txt", text)
        arguments = _with(localize, "--queries", path)
        yield "query lists", Bad(name, arguments)
    pairs = {name: text for name, text in texts.items() if name[:4] not in ("NaN ", "size", "unkn")}
    pairs |= {f"name {name}": f"{query[0]} {name}\n" for name in BAD_NAMES}
    pairs["an image without features"] = f"{query[0]} db/none.jpg\n"
    for number, (name, text) in enumerate(pairs.items()):
        path = write(f"pairs-{number}.txt", text)
        yield "pairs files", Bad(name, _with(match, "--pairs", path))
        yield "pairs files", Bad(name, _with(localize, "--pairs", path))

    poses = {
        **pairs, "NaN": f"{query[0]} nan 0 0 0 0 0 0\n", "zero": f"{query[0]} 0 0 0 0 0 0 0\n",
        "huge": f"{query[0]} 1e308 1e308 1e308 1e308 0 0 0\n",
        "infinite": f"{query[0]} 1 0 0 0 inf 0 0\n", "short": f"{query[0]} 1 0 0\n",
    }  # fmt: skip
    for number, (name, text) in enumerate(poses.items()):
        path = write(f"poses-{number}.txt", text)
        yield "poses files", Bad(name, ["submission", "make", path, "--dataset", city.dataset,
                                        "--outputs", out])  # fmt: skip
    for name, model in _models(city, folder):
        yield "COLMAP models", Bad(name, _with(mapping, "--reference-model", model))
        if (model / "images.bin").exists():
            yield "COLMAP models", Bad(f"{name} as a map", _with(localize, "--map", model))
        if "camera" not in name:  # those play no part there
            arguments = [
                "pairs", "covisibility", "--reference-model", model, "--output", out / "pairs.txt",
            ]  # fmt: skip
            yield "COLMAP models", Bad(f"{name} for pairs", arguments)
    for name, path, commands in _hdf5(city, folder):
        for option in commands:
            arguments = _with(localize, option, path) if option != "match" else _with(
                match, "--features", path
            )  # fmt: skip
            yield "HDF5 features and matches", Bad(name, arguments)
    for name, data in _images():
        photos = write(f"photos-{name}/a{Path(name).suffix}", data).parent
        yield "images", Bad(name, _with(extract, "--images", photos))
    recipes = {
        "Python object": "output: !!python/object/apply:os.system ['touch /tmp/owned']\n",
        "laughs": "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
            f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi",
                                                                     strict=True)),
        "deep": "[" * 20_000, "binary": bytes(range(256)), "list": "- 1\n- 2\n", "empty": "",
        "unknown key": "trian: {steps: 3}\n", "text for a number": "train: {steps: many}\n",
        "NaN": "output: x\ntrain: {batch: .nan}\n", "cycle": "output: ${output}\n",
        "interpolation": "output: ${oc.env:HOME}/x\ntrain: {steps: '${nothing}'}\n",
        "scalar": "3\n", "null sections": "train: null\nlosses: null\noutput: x\n",
    }  # fmt: skip
    for number, (name, text) in enumerate(recipes.items()):
        path = write(f"recipe-{number}.yaml", text)
        own = name in ("empty", "cycle", "interpolation")  # good ones where all is overridden
        more = [] if own else train[3:]
        yield "YAML recipes", Bad(name, ["train", "--recipe", path, *more])
    for name, path in _safetensors(folder):
        yield "checkpoints", Bad(name, [*extract, "--weights", path])
        yield "checkpoints", Bad(f"{name} as the release's",
                                 [*extract, "--weights", path, "--official-weights"])  # fmt: skip


def _with(command: list[str | Path], option: str, value: Path) -> list[str | Path]:
    """A command with another value for one of its options."""
    at = command.index(option)
    rest = list(command)
    rest[at + 1] = value
    while option in rest[at + 2 :]:  # given twice: once is enough
        again = rest.index(option, at + 2)
        del rest[again : again + 2]
    return rest


def _models(city: City, folder: Path) -> Iterator[tuple[str, Path]]:
    files = ("cameras.bin", "images.bin", "points3D.bin")

    def model(name: str) -> Path:
        target = folder / f"model-{name.replace(' ', '-')}"
        shutil.copytree(city.model, target)
        for extra in ("rigs.bin", "frames.bin"):
            (target / extra).unlink(missing_ok=True)
        return target

    for file in files:
        for name, change in {
            "cut": lambda data: data[: len(data) // 2], "empty": lambda data: b"",
            "huge count": lambda data: struct.pack("<Q", 1 << 60) + data[8:],
            "one too many": lambda data: struct.pack("<Q", 1 + data[0] + 256 * data[1]) + data[8:],
            "noise": lambda data: random.Random(1).randbytes(len(data)),
            "longer": lambda data: data + bytes(100),
        }.items():  # fmt: skip
            target = model(f"{file} {name}")
            path = target / file
            path.write_bytes(change(path.read_bytes()))
            yield f"{file} {name}", target
    data = (city.model / "images.bin").read_bytes()
    for name in BAD_NAMES[:3]:
        target = model(f"name {zlib.crc32(name.encode())}")
        start = 8 + 64
        end = data.index(b"\0", start)
        (target / "images.bin").write_bytes(data[:start] + name.encode() + data[end:])
        yield f"image name {name}", target
    text = folder / "model-text"
    for name, (file, line) in {
        "text cameras": ("cameras.txt", "1 PINHOLE 1e9 x 1 1 1 1\n"),
        "text camera without end": ("cameras.txt", "1 PINHOLE 256 192" + " 1" * 100_000 + "\n"),
        "text pose NaN": ("images.txt", "1 nan 0 0 0 0 0 0 1 db/1.jpg\n\n"),
        "text name": ("images.txt", "1 1 0 0 0 0 0 0 1 ../../x.jpg\n\n"),
        "text points": ("points3D.txt", "1 0 0\n"),
        "text point of no image": ("points3D.txt", "1 0 0 5 1 1 1 0.5 77 0 78 0\n"),
        "text point past its image": ("points3D.txt", "1 0 0 5 1 1 1 0.5 1 999999 1 0\n"),
        "text observation of no point": ("images.txt", "1 1 0 0 0 0 0 0 1 a.jpg\n1 1 777\n"),
    }.items():
        target = Path(f"{text}-{name.replace(' ', '-')}")
        target.mkdir()
        (target / "cameras.txt").write_text("1 PINHOLE 256 192 200 200 128 96\n")
        (target / "images.txt").write_text("1 1 0 0 0 0 0 0 1 db/db_000.jpg\n1 1 1\n")
        (target / "points3D.txt").write_text("1 0 0 5 1 1 1 0.5 1 0\n")
        (target / file).write_text(line)
        yield name, target


def _hdf5(city: City, folder: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """Damaged feature files (options --features, or match) and match files (--matches).

    They are made with h5py, which starts no threads.
    """
    import h5py

    def changed(source: Path, name: str, change: Callable[[h5py.File], None]) -> Path:
        target = folder / f"{name.replace(' ', '-').replace('/', '-')}.h5"
        shutil.copyfile(source, target)
        with h5py.File(target, "a") as file:
            change(file)
        return target

    image = Path(city.lists[0]).read_text().split()[0]
    other = next(iter(sorted(p.name for p in (city.photos / "db").iterdir())))
    pair = f"{image.replace('/', '-')}/db-{other}"

    with h5py.File(city.features) as file:
        keypoints, descriptors = file[image]["keypoints"][()], file[image]["descriptors"][()]
    absurd: dict[str, Any] = {"dtype": "f4", "chunks": (1024, 2), "shape": (1 << 40, 2)}
    far = keypoints.copy()
    far[:] = np.nan
    odd = {
        "of text": np.array([b"text"] * 3), "a scalar": np.float32(3), "a group": "group",
        "a link to itself": "loop", "a link outside": "outside",
        "of five dimensions": np.zeros((1, 1, 1, 1, 2), np.float32),
        "empty of one dimension": np.zeros(0, np.float32),
    }  # fmt: skip
    for name, value in odd.items():
        path = changed(city.features, f"keypoints {name}", _put(f"{image}/keypoints", value))
        yield f"keypoints {name}", path, ["--features"]
        path = changed(city.features, f"descriptors {name}", _put(f"{image}/descriptors", value))
        yield f"descriptors {name}", path, ["match"]
        path = changed(city.matches, f"matches {name}", _put(f"{pair}/matches0", value))
        yield f"matches {name}", path, ["--matches"]
    for place, names in ((f"{image}/keypoints", ["--features"]),
                         (f"{image}/descriptors", ["match"])):  # fmt: skip
        path = changed(city.features, f"absurd {place}", _put(place, absurd))
        yield f"absurd shape of {place.rpartition('/')[2]}", path, names
    absurd = {"dtype": "i2", "chunks": (1024,), "shape": (1 << 44,)}
    path = changed(city.matches, "absurd", _put(f"{pair}/matches0", absurd))
    yield "absurd shape of matches0", path, ["--matches"]
    path = changed(city.features, "NaN keypoints", _put(f"{image}/keypoints", far))
    yield "NaN keypoints", path, ["--features"]
    path = changed(city.features, "half", _put(f"{image}/descriptors", descriptors[:64]))
    yield "descriptors of another dimension", path, ["match"]
    past = np.full(len(keypoints), 30_000, np.int16)
    path = changed(city.matches, "past", _put(f"{pair}/matches0", past))
    yield "matches past the features", path, ["--matches"]
    longer = np.arange(len(keypoints) + 5000).astype(np.int16) % 100
    path = changed(city.matches, "longer", _put(f"{pair}/matches0", longer))
    yield "more matches than keypoints", path, ["--matches"]
    for source, names in ((city.features, ["--features", "match"]), (city.matches, ["--matches"])):
        data = source.read_bytes()
        noise = data[:8] + random.Random(2).randbytes(5000)
        damages = {"cut": data[: len(data) // 2], "empty": b"", "text": b"hello", "noise": noise}
        for name, damage in damages.items():
            path = folder / f"{source.stem}-{name}.h5"
            path.write_bytes(damage)
            yield f"{source.name} {name}", path, names


def _put(place: str, value: Any) -> Callable[[Any], None]:
    """Something else in place of a dataset: an array, something odd, or one that is only claimed
    (the arguments of ``create_dataset``)."""
    import h5py

    def change(file: Any) -> None:
        del file[place]
        if isinstance(value, dict):
            file.create_dataset(place, **value)
        elif not isinstance(value, str):
            file[place] = value
        elif value == "group":
            file.create_group(place)
        elif value == "loop":
            file[place] = h5py.SoftLink(f"/{place}")
        else:
            file[place] = h5py.ExternalLink("/etc/passwd", "/")

    return change


def _images() -> Iterator[tuple[str, bytes]]:
    def png(width: int, height: int, data: bytes = b"") -> bytes:
        def chunk(kind: bytes, content: bytes) -> bytes:
            return struct.pack(">I", len(content)) + kind + content + struct.pack(
                ">I", zlib.crc32(kind + content)
            )  # fmt: skip

        head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data))
                + chunk(b"IEND", b""))  # fmt: skip

    yield "huge.png", png(100_000, 100_000)
    yield "wide.png", png(2_000_000_000, 1)
    yield "bomb.png", png(14_000, 14_000, bytes(10))
    yield "short.png", png(64, 64, bytes(100))
    yield "zero.png", png(0, 64)
    yield "empty.jpg", b""
    yield "text.jpg", b"not a photo\n" * 100
    size = struct.pack(">HH", 65_500, 65_500)
    yield "huge.jpg", (b"\xff\xd8\xff\xc0\x00\x11\x08" + size + b"\x03\x01\x22\x00\x02\x11\x01"
                       b"\x03\x11\x01\xff\xd9")  # fmt: skip
    yield "cut.jpg", b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
    bmp = struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 100_000, 100_000, 1, 24, 0, 0, 0, 0, 0,
                      0)  # fmt: skip
    yield "huge.bmp", b"BM" + bmp
    yield "huge.ppm", b"P6\n100000 100000\n255\n"
    yield "long.ppm", b"P6\n" + b"9" * 100_000 + b" 1\n255\n"
    tiff = struct.pack("<HIHHIIHHII", 2, 8, 2, 256, 4, 1, 0, 0, 100_000, 0)
    yield "odd.tif", b"II*\x00\x08\x00\x00\x00" + tiff
    yield "page.eps.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/etc/passwd) run\n"


def _safetensors(folder: Path) -> Iterator[tuple[str, Path]]:
    def file(name: str, header: bytes, rest: bytes = b"", length: int | None = None) -> Path:
        path = folder / f"{name.replace(' ', '-')}.safetensors"
        path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header
                         + rest)  # fmt: skip
        return path

    def entry(shape: list[int], offsets: list[int], **metadata: str) -> bytes:
        head: dict[str, Any] = {"x": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}
        return json.dumps({"__metadata__": metadata, **head}).encode()

    ours = {"format": "samfeat_hloc/1", "config": "{}"}
    yield "length past the end", file("length", b"{}", length=1 << 62)
    yield "no JSON", file("nojson", b"\xff" * 64)
    yield "absurd shape", file("shape", entry([1 << 40, 1 << 20], [0, 4]), bytes(4))
    yield "overflowing offsets", file("offsets", entry([1], [0, 1 << 63]), bytes(4))
    yield "another format", file("format", entry([1], [0, 4]), bytes(4))
    yield "no SAMFeat", file("nosamfeat", entry([1], [0, 4], **ours), bytes(4))
    yield "config a list", file("config", entry([1], [0, 4], format=ours["format"], config="[1]"),
                                bytes(4))  # fmt: skip
    yield "config of code", file("code", entry([1], [0, 4], format=ours["format"],
                                               config='{"edge_attention": "__import__"}'),
                                 bytes(4))  # fmt: skip
    yield "deep JSON", file("deep", b"[" * 100_000)
    empty = folder / "empty.safetensors"
    empty.write_bytes(b"")
    yield "empty", empty
    code = folder / "code.pt"  # a pickle that would call os.system
    code.write_bytes(b"cos\nsystem\n(S'touch /tmp/owned'\ntR.")
    yield "a pickle with code", code
