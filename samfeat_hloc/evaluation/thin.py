"""A thinner dataset: every N-th database photo, to see what a map of few photos can do.

Where photos are many, each place is seen so often that a feature's wrong matches cost more than its
missing ones; with few it is the other way round.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from ..colmap.model import open_in_pycolmap
from ..datasets.aachen import AachenDataset
from ..errors import SamfeatError
from ..files import provenance
from ..files.outputs import Output


def thin_dataset(dataset: Path, output: Path, *, every: int = 3) -> Path:
    """Make a dataset of every ``every``-th database image, by name, and all queries.

    Photos are linked, not copied. The reference model keeps the points that at least two of its
    images see.

    Arguments:
        dataset: in Aachen's layout.
        output: folder to make; kept when it was made from the same dataset.

    Returns:
        ``output``.

    Raises:
        SamfeatError: whatever is wrong with the dataset; too few database images; ``output`` is
            there and was made otherwise.
    """
    source = AachenDataset.open(dataset)
    kept = set(source.db_names[::every])
    if every < 1 or len(kept) < 2:
        raise SamfeatError(
            dataset,
            f"every {every}. of its {len(source.db_names)} database images leaves {len(kept)}",
            "give a smaller number, so that at least 2 are left",
        )
    record = provenance.made_by(
        "thin-dataset",
        {"every": every},
        {"images": provenance.names_hash(source.db_names + source.query_names)},
    )
    result = Output(output, record)
    if result.is_there():
        return output
    with result.making() as work:
        temporary = work / "dataset"
        model = open_in_pycolmap(source.reference_model)
        for image in list(model.images.values()):
            if image.name not in kept:
                model.deregister_frame(image.frame_id)
        folder = temporary / source.reference_model.relative_to(source.root)
        folder.mkdir(parents=True)
        model.write_text(str(folder))
        (temporary / "images_upright").symlink_to(source.image_dir.resolve())
        shutil.copytree(source.root / "queries", temporary / "queries")
        return result.put(temporary)
