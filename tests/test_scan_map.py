"""Maps of scanned images: which images of a query count."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from samfeat_hloc.files.pair_lists import read_pairs
from samfeat_hloc.localization.scan_map import enough_matches


@pytest.mark.parametrize(
    ("counts", "kept"),
    [((25, 0, 30), ["b", "a"]), ((3, 0, 5), ["a"]), ((0, 0, 0), ["b"])],
    ids=["enough", "the most", "none: the most similar"],
)
def test_images_with_enough_matches(
    tmp_path: Path, counts: tuple[int, ...], kept: list[str]
) -> None:
    names = ["b", "c", "a"]  # the most similar first
    pairs, matches = tmp_path / "pairs.txt", tmp_path / "matches.h5"
    pairs.write_text("".join(f"q {name}\n" for name in names))
    with h5py.File(matches, "w") as file:
        for name, count in zip(names, counts, strict=True):
            found = np.full(40, -1, dtype=np.int32)
            found[:count] = np.arange(count)
            file[f"q/{name}/matches0"] = found
    output = enough_matches(pairs, matches, tmp_path / "kept.txt")
    assert read_pairs(output) == [("q", name) for name in kept]
