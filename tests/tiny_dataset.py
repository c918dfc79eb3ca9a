"""A dataset in Aachen's layout of a few bytes: opening one looks for photos, but decodes none."""

from __future__ import annotations

from pathlib import Path

CAMERA = "PINHOLE 640 480 500 500 320 240"


def build(root: Path) -> Path:
    """Two database photos, two day queries, two night queries, a text model, ground truth."""
    names = {
        "day": ["query/day/a.jpg", "query/day/b.jpg"],
        "night": ["query/night/c.jpg", "query/night/d.jpg"],
    }
    for name in ["db/1.jpg", "db/2.jpg", *names["day"], *names["night"]]:
        path = root / "images_upright" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    queries = root / "queries"
    queries.mkdir()
    for condition, listed in names.items():
        lines = "".join(f"{name} {CAMERA}\n" for name in listed)
        (queries / f"{condition}_time_queries_with_intrinsics.txt").write_text(lines)
    (queries / "ground_truth.txt").write_text(
        "".join(f"{name}.jpg 1 0 0 0 {i} 0 0\n" for i, name in enumerate("abcd"))
    )
    model = root / "3D-models" / "aachen_v_1_1"
    model.mkdir(parents=True)
    (model / "cameras.txt").write_text(f"# Cameras\n1 {CAMERA}\n")
    (model / "images.txt").write_text(
        "# Images\n1 1 0 0 0 0 0 0 1 db/1.jpg\n\n2 1 0 0 0 -5 0 0 1 db/2.jpg\n10 10 1\n"
    )
    (model / "points3D.txt").write_text("# Points\n1 0 0 5 128 128 128 0.5 1 0 2 0\n")
    return root
