"""Random damage: good files with bytes flipped, cut out, repeated or cut off, for every parser."""

from __future__ import annotations

import random
import shutil
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import children
from budget import Budget, left, short
from stages import City
from tally import Tally

SECONDS_EACH = 20  # of one file
LEAST = 20  # files in one child, and of each parser, whatever the time
Parse = Callable[[Path], Any]


def try_all(city: City, count: int, seed: int, tally: Tally, deadline: float) -> None:
    """``count`` damaged files for each parser, in a child that goes on after each.

    A parser's files are cut short where its share of the time is up.
    """
    parsers = _parsers(city)
    budget = Budget((deadline - time.monotonic()) / 60, len(parsers))
    for name, source, parse in parsers:
        lost: list[str] = []
        first, end = 0, budget.next()
        while first < count and len(lost) < 5 and (first < LEAST or left(end)):
            step = min(first + LEAST, count)
            first = _child(city, name, source, parse, range(first, step), seed, lost)
        promise = "read, or refused in one line; no other exception, crash, hang, or 2 GB"
        tally.add("bad input", f"{name}: random damage", promise,
                  (lost or [f"{first} damaged files: read, or refused in one line"])
                  + short(first, count, "files"),
                  tried=first, lost=len(lost))  # fmt: skip


def _child(
    city: City, name: str, source: Path, parse: Parse, numbers: range, seed: int, lost: list[str]
) -> int:
    """Try the files of these numbers; the number to go on with. What is lost is added to
    ``lost``."""
    place = city.folder / "fuzz"
    shutil.rmtree(place, ignore_errors=True)
    at = city.folder / "fuzz-at.txt"

    def work() -> None:
        from samfeat_hloc.errors import SamfeatError

        for number in numbers:
            at.write_text(str(number))
            target = place
            if source.is_dir():
                shutil.rmtree(place, ignore_errors=True)
                shutil.copytree(source, place)
                files = sorted(path for path in place.iterdir() if path.suffix == ".bin")
                victim = random.Random(f"{seed} {name} {number}").choice(files)
            else:
                place.mkdir(exist_ok=True)
                victim = target = place / source.name
                shutil.copyfile(source, target)
            victim.write_bytes(
                damaged(victim.read_bytes(), random.Random(f"{seed} {number} {name}"))
            )
            signal.alarm(SECONDS_EACH)
            try:
                parse(target)
            except SamfeatError as error:
                if "\n" in str(error):
                    print(f"LOST {number}: an error of several lines", flush=True)
            except BaseException as error:
                line = traceback.extract_tb(error.__traceback__)[-1]
                where = f"{Path(line.filename).name}:{line.lineno}"
                print(f"LOST {number}: {type(error).__name__}: {error} ({where})", flush=True)
            signal.alarm(0)

    ended = children.run(work, (children.memory(2000),), timeout=SECONDS_EACH * 20)
    lost += [line[5:205] for line in ended.output.splitlines() if line.startswith("LOST ")]
    if ended.code == 0 and not ended.timed_out:
        return numbers.stop
    number = int(at.read_text())
    lost.append(f"{number}: {ended.how()}")
    return number + 1


def damaged(data: bytes, chance: random.Random) -> bytes:
    """A file with one to four damages."""
    content = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(max(len(content), 1))
        if chance.random() < 0.6:  # heads and counts are at the front
            at = min(at, chance.randrange(600))
        kind = chance.randrange(5)
        if kind == 0:
            content[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            content[at : at + 8] = chance.choice(
                [b"\xff" * 8, bytes(8), b"\0" * 7 + b"\x7f", chance.randbytes(8)]
            )
        elif kind == 2:
            del content[at : at + chance.randint(1, 64)]
        elif kind == 3:
            content[at:at] = content[at : at + chance.randint(1, 64)]
        else:
            del content[chance.randrange(max(len(content), 1)) :]
    return bytes(content)


def _parsers(city: City) -> list[tuple[str, Path, Parse]]:
    from samfeat_hloc.colmap.model import read_model
    from samfeat_hloc.colmap.poses import read_poses
    from samfeat_hloc.datasets import aachen
    from samfeat_hloc.feature import checkpoints
    from samfeat_hloc.files import feature_readers, images
    from samfeat_hloc.files.pair_lists import read_pairs
    from samfeat_hloc.localization import mapping, matches
    from samfeat_hloc.localization.result import read_result
    from samfeat_hloc.teachers.cache import TeacherCache
    from samfeat_hloc.training.keypoint_labels import KeypointLabels
    from samfeat_hloc.training.recipe import read_recipe

    whole = city.whole
    photo = sorted((city.photos / "db").iterdir())[0]

    def features(path: Path) -> None:
        with feature_readers.FeatureReader(path) as reader:
            for name in ("db/db_000.jpg", "db/db_001.jpg", "query/day/day_000.jpg"):
                if reader.has(name):
                    reader.keypoints(name), reader.descriptors(name)
                    reader.image_size(name), reader.uncertainty(name)
        with matches.DescriptorCache(path, "cpu") as cache:
            cache.check_names(["db/db_002.jpg"], path)
            cache.get("db/db_002.jpg")

    def match_file(path: Path) -> None:
        with feature_readers.MatchReader(path) as reader:
            reader.matches("db/db_000.jpg", "db/db_001.jpg")
            reader.matches("query/day/day_000.jpg", "db/db_001.jpg")

    def cache(path: Path) -> None:
        opened = TeacherCache(path)
        for name in opened.names[:3]:
            opened.read(name, own_dimensions=True)

    def labels(path: Path) -> None:
        opened = KeypointLabels(path)
        for name in opened.names[:3]:
            opened.read(name)

    def result(path: Path) -> None:
        shutil.copyfile(whole / "localize/localization.json", path.with_name("localization.json"))
        read_result(path)

    def log_of(path: Path) -> None:
        shutil.copyfile(whole / "localize/poses.txt", path.with_name("poses.txt"))
        read_result(path.with_name("poses.txt"))

    config = Path(__file__).resolve().parents[2] / "configs" / "homographies.yaml"
    return [
        ("query lists", Path(city.lists[0]), lambda path: aachen.read_queries(path, "day")),
        ("pairs files", city.query_pairs, read_pairs),
        ("poses files", whole / "localize/poses.txt", read_poses),
        ("poses with their log", whole / "localize/poses.txt", result),
        ("localization.json", whole / "localize/localization.json", log_of),
        ("COLMAP models", city.model, mapping._read_reference),
        ("maps", whole / "map/map", read_model),
        ("HDF5 features", city.features, features),
        ("HDF5 matches", city.matches, match_file),
        ("teacher's caches", whole / "teach/teacher.h5", cache),
        ("keypoint labels", city.features, labels),
        ("images", photo, images.read_photo),
        ("recipes", config, lambda path: read_recipe(path, ["data.images=x"])),
        ("checkpoints", checkpoints.SHIPPED, checkpoints.read_checkpoint),
        ("run states", whole / "train/run/state.pt", checkpoints.read_release),
    ]  # fmt: skip
