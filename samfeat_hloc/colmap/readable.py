"""Photos as COLMAP reads them: those whose format it does not know are converted for it."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from ..errors import SamfeatError, some_of, writing
from ..files.images import exif_of, image_format, read_image
from ..progress import tqdm

logger = logging.getLogger(__name__)

_READ = frozenset({"JPEG", "PNG", "TIFF", "BMP", "PPM"})  # by every build of COLMAP


@contextmanager
def readable(image_dir: Path, names: Sequence[str], work: Path) -> Iterator[Path]:
    """A folder in which COLMAP can read these images under their names.

    It is the image folder itself where COLMAP reads all of them; else one of links, with PNGs, of
    the same pixels and EXIF data, in place of what COLMAP does not read (it goes by the content).

    Arguments:
        names: of the images that are to be read; of those without a file nothing is said.
        work: folder to make it in; it is removed at the end.

    Raises:
        SamfeatError: an image that is broken, or a full disk.
    """
    there = [name for name in names if (image_dir / name).is_file()]
    others = {name for name in there if image_format(image_dir / name) not in _READ}
    if not others:
        yield image_dir
        return
    logger.info("%s: %d of %d images converted for COLMAP", image_dir, len(others), len(names))
    with tempfile.TemporaryDirectory(dir=work) as folder:
        with writing(work):
            for name in tqdm(there, desc="convert", unit="image", delay=2, leave=False):
                target = Path(folder, name)
                target.parent.mkdir(parents=True, exist_ok=True)
                if name in others:
                    convert(image_dir / name, target)
                else:
                    target.symlink_to((image_dir / name).resolve())
        yield Path(folder)


def convert(source: Path, target: Path) -> None:
    """Write an image as a PNG, whatever the target's ending, with its EXIF data."""
    pixels = read_image(source)
    with target.open("wb") as stream:
        Image.fromarray(pixels).save(stream, format="PNG", exif=exif_of(source), compress_level=1)


def refuse_unread(image_dir: Path, names: Sequence[str], by: str) -> None:
    """Refuse images that OpenCV does not read, for programs that use it, before they begin.

    Arguments:
        by: the program, for the message.

    Raises:
        SamfeatError: names them all.
    """
    others = [n for n in names if image_format(image_dir / n) not in (*_READ, "WEBP")]
    if others:
        raise SamfeatError(
            image_dir,
            f"{len(others)} of {len(names)} images are of formats that {by} does not read: "
            + some_of(others, 5),
            "save them as JPEG or PNG",
        )
