"""Reading photos: RGB uint8 in the stored orientation, whatever the file holds.

COLMAP and hloc work on the pixels as they are stored: the EXIF orientation is not applied. So
does this module; whoever needs to look at a photo the right way up takes :mod:`.orientation`.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError, features

from ..errors import SamfeatError, cause_of, in_one_line
from . import jpeg
from .orientation import to_upright
from .signatures import signature

logger = logging.getLogger(__name__)

MAX_PIXELS = 200_000_000


def _decodes(feature: str) -> bool:
    """Whether this Pillow was built with it; older ones do not know all of the names."""
    known = feature in features.modules or feature in features.codecs
    return known and bool(features.check(feature))


_HEIF = importlib.util.find_spec("pillow_heif") is not None
# Only raster formats that cameras and datasets use: Pillow would also run Ghostscript on an EPS.
_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "PPM", "GIF", "JPEG2000", "AVIF", "HEIF")
_PLAIN = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".ppm", ".pgm", ".pnm")
_OPTIONAL = {  # endings: whether they are read here, and the mend where they are not
    (".webp",): (_decodes("webp"), "this Pillow reads no WebP; install a newer one"),
    (".jp2", ".j2k"): (_decodes("jpg_2000"), "this Pillow reads no JPEG 2000"),
    (".avif",): (_decodes("avif"), "this Pillow reads no AVIF; install a newer one"),
    (".heic", ".heif", ".hif"): (_HEIF, 'HEIC is read with: pip install "samfeat-hloc[heif]"'),
}  # fmt: skip
_RAW = ".dng .cr2 .cr3 .nef .nrw .arw .raf .orf .rw2 .pef .srw .raw .3fr .iiq .x3f"
# What takes part in everything: an image is a file with one of these endings.
EXTENSIONS = frozenset(_PLAIN) | {e for es, (there, _) in _OPTIONAL.items() if there for e in es}
# What is a photo by its ending, and is not read, and why.
UNREAD = {
    **{e: mend for endings, (there, mend) in _OPTIONAL.items() if not there for e in endings},
    **dict.fromkeys(_RAW.split(), "a raw photo; save it as JPEG or PNG"),
    **dict.fromkeys((".jxl", ".gif", ".psd", ".exr", ".hdr"), "not read; save it as JPEG or PNG"),
}
_EXIF_ORIENTATION = 0x0112
_LAST_BYTES = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
_TAIL = 256
_limit_lock = threading.Lock()
_REDUCED = 254, 1  # the TIFF tag of a page that is a smaller copy of another, and its bit
_told_folders: set[Path] = set()  # of which it was said that a file holds several images


class BrokenImage(SamfeatError):
    """A file that is no whole image; where one is, there may be more."""


def check_name(name: str) -> str:
    """Return ``name`` when it is fit to name an image relative to the image folder.

    Raises:
        SamfeatError: the name has white space (text formats of hloc and COLMAP split lines on
            it), starts with ``#`` (there a comment), is absolute, has a drive or a backslash, or
            climbs out with ``..``.
    """
    if not name:
        raise SamfeatError(
            "image name ''", "it is empty", "name a file relative to the image folder"
        )
    wrong = None
    if any(c.isspace() for c in name):
        wrong = (
            "it has white space, which text lists of images cannot hold; rename the file, with _ "
            "in its place"
        )
    elif any(not c.isprintable() for c in name):
        wrong = "it has unprintable characters; rename the file"
    elif name.startswith("#"):
        wrong = "it starts with #, and text lists of images take its line for a comment; rename it"
    elif "\\" in name:
        wrong = "it has a backslash; separate folders with /"
    elif name.startswith("/") or name[1:2] == ":":
        wrong = "it is an absolute path; name it relative to the image folder"
    elif ".." in name.split("/"):
        wrong = "it climbs out of the image folder with ..; name it relative to the image folder"
    elif any(part in ("", ".") for part in name.split("/")):
        wrong = "it has an empty or '.' folder; write it plainly, as folder/file.jpg"
    if wrong:
        raise SamfeatError(f"image name {_quoted(name)}", wrong)
    return name


def read_image(path: Path) -> np.ndarray:
    """Read a photo.

    Grey is repeated to three channels, 16 bits are scaled by their value range (the high byte is
    kept, as OpenCV does), transparency is dropped, palette and CMYK become RGB. On RGB JPEGs the
    pixels are those that hloc gets from OpenCV.

    Returns:
        uint8 (H, W, 3), RGB, in the stored orientation, C-contiguous.

    Raises:
        SamfeatError: missing file, folder, no image, truncated or broken, more than
            ``MAX_PIXELS`` by its header (not decoded then), or 32-bit samples.
    """
    return read_photo(path)[0]


def read_photo(path: Path) -> tuple[np.ndarray, int]:
    """A photo as ``read_image`` reads it, and its EXIF orientation; decoded once.

    Of a file of several images, as scanners and animations have them, the first is read; a
    warning says so, once a folder.

    Raises:
        SamfeatError: as ``read_image``.
    """
    with _opened(path) as image:
        if getattr(image, "n_frames", 1) > 1 and (count := _images_in(image)) > 1:
            folder = Path(path).parent
            if folder not in _told_folders:
                _told_folders.add(folder)
                logger.warning(
                    "%s: the file holds %d images, and the first is read; save each to a file of "
                    "its own (`samfeat check` lists all such files)", path, count,
                )  # fmt: skip
        pixels = _colour_jpeg(image)
        return _decoded(image, path) if pixels is None else (pixels, _orientation_of(image))


def images_in(path: Path) -> int:
    """How many images a file holds, such as the pages of a TIFF; smaller copies do not count.

    Raises:
        SamfeatError: as ``image_size``.
    """
    with _opened(path) as image:
        return _images_in(image)


def read_levels(path: Path) -> np.ndarray:
    """The values of an image of which it only counts whether they are 0, as a mask's.

    Returns:
        (H, W) or (H, W, 3), grey as it is stored, colours as uint8; in the stored orientation.

    Raises:
        SamfeatError: as ``read_image``, but for the number of bits.
    """
    with _opened(path) as image:
        image.load()
        grey = image.mode in ("1", "L") or image.mode[:1] in ("I", "F")
        return np.asarray(image if grey else image.convert("RGB"))


def decode_pillow(image: Image.Image) -> tuple[np.ndarray, int]:
    """A Pillow image as :func:`read_photo` returns the file that it was opened from.

    Raises:
        SamfeatError: as ``read_image``.
    """
    subject = getattr(image, "filename", "") or "image"
    with _decoding(subject):
        return _decoded(image, subject)


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of the stored photo, from its header; nothing is decoded.

    Raises:
        SamfeatError: no image, or one that claims too many pixels.
    """
    with _opened(path) as image:
        return image.size


def image_format(path: Path) -> str:
    """The format of an image by its content, as Pillow calls it: "JPEG", "WEBP".

    Raises:
        SamfeatError: as ``image_size``.
    """
    with _opened(path) as image:
        return "JPEG" if image.format == "MPO" else str(image.format)


def exif_of(path: Path) -> Image.Exif:
    """The EXIF data of an image; empty where it has none.

    Raises:
        SamfeatError: as ``image_size``.
    """
    with _opened(path) as image:
        exif = image.getexif()
        for block in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo, ExifTags.IFD.Interop):
            exif.get_ifd(block)  # of a TIFF it is read from the file, which is closed afterwards
        return exif


def check_whole(path: Path) -> None:
    """Refuse an image whose header is wrong or whose file is cut off.

    A JPEG or PNG that ends as it should is not decoded, and may yet be damaged within.

    Raises:
        SamfeatError: as ``read_image``.
    """
    with _opened(path) as image:
        ending = _LAST_BYTES.get(image.format or "")
    if ending is not None:
        with path.open("rb") as stream:
            stream.seek(-min(_TAIL, path.stat().st_size), os.SEEK_END)
            if stream.read().rstrip(b"\0\r\n ").endswith(ending):
                return
    read_photo(path)


def exif_orientation(path: Path) -> int:
    """The EXIF orientation of a photo, 1 to 8; 1 (upright) when there is none or it is not valid.

    Raises:
        SamfeatError: as ``read_image``; most formats are not decoded for it.
    """
    with _opened(path) as image:
        return _orientation_of(image)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """A Pillow image with its header read and its size checked; any failure is a SamfeatError."""
    path = Path(path)
    if path.is_dir():
        raise SamfeatError(path, "this is a folder, not an image", "name a file")
    if not path.is_file():
        raise SamfeatError(path, "no such image", "check the name and the image folder")
    if path.stat().st_size == 0:
        raise BrokenImage(path, "the image file is empty (0 bytes)", "fetch it again")
    with _decoding(path), path.open("rb") as stream, _header(stream) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise SamfeatError(
                path,
                (
                    f"its header claims {width} x {height} pixels, more than the "
                    f"{MAX_PIXELS // 1000000} megapixels allowed"
                ),
                "scale it down, or leave it out",
            )
        yield image


@contextmanager
def _decoding(path: object) -> Iterator[None]:
    """Any failure in the block is a SamfeatError that names the image."""
    try:
        yield
    except SamfeatError:
        raise
    except UnidentifiedImageError:
        raise _not_an_image(Path(str(path))) from None
    except PermissionError:
        raise SamfeatError(path, "no permission to read it", "change its mode") from None
    except Exception as error:  # Pillow's decoders raise almost anything on broken data.
        if (cause := cause_of(error)) is not None:  # of the machine, not of the file
            raise SamfeatError(path, cause) from None
        why = in_one_line(error)
        raise BrokenImage(
            path, f"the image is truncated or broken ({why})", "fetch it again, or leave it out"
        ) from None


def _not_an_image(path: Path) -> SamfeatError:
    found = signature(path)
    if found is None:
        what, mend = "this is not an image (whatever its name says)", "replace it, or leave it out"
    elif found.photo in UNREAD:
        what, mend = f"this is {found.what}", UNREAD[found.photo]
    else:
        what, mend = f"this is {found.what}", found.mend or "replace it, or leave it out"
    return BrokenImage(path, what, mend)


@lru_cache(maxsize=1)
def _register_heif() -> None:
    if _HEIF:
        import pillow_heif

        pillow_heif.register_heif_opener()


def _header(stream: object) -> Image.Image:
    """Open without Pillow's own pixel limit, which lies under ours; decoding comes later."""
    _register_heif()
    Image.init()  # Pillow looks for no further decoders when it is told the formats.
    with _limit_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            formats = [name for name in _FORMATS if name in Image.OPEN]
            return Image.open(stream, formats=formats)  # type: ignore[arg-type]
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _images_in(image: Image.Image) -> int:
    count = getattr(image, "n_frames", 1)
    if image.format == "MPO":  # a phone's JPEG: the others are depth, or light
        return 1
    if image.format != "TIFF" or count == 1:
        return count
    pages = 0
    for page in range(count):
        image.seek(page)
        tag, bit = _REDUCED
        pages += not int(image.tag_v2.get(tag, 0)) & bit  # type: ignore[attr-defined]
    image.seek(0)
    return pages


def _decoded(image: Image.Image, path: object) -> tuple[np.ndarray, int]:
    """The pixels of a Pillow image as they are stored, RGB uint8, and its EXIF orientation."""
    # Pillow turns TIFFs (and only those) upright while loading and then drops the tag.
    orientation = _orientation_of(image) if image.format == "TIFF" else None
    image.load()
    after = _orientation_of(image)
    if orientation is None:  # a PNG's may come behind the pixels
        orientation = after
    pixels = _as_rgb(image, path)
    if orientation != after:
        pixels = to_upright(pixels, {6: 8, 8: 6}.get(orientation, orientation))
    return np.ascontiguousarray(pixels), orientation


def _colour_jpeg(image: Image.Image) -> np.ndarray | None:
    """The pixels of an image that was just opened, where OpenCV decodes them."""
    if image.format not in ("JPEG", "MPO") or image.mode != "RGB":
        return None
    stream: BinaryIO = image.fp  # type: ignore[attr-defined]
    stream.seek(0)
    found = jpeg.pixels(stream.read())
    return found if found is not None and found.shape[1::-1] == image.size else None


def _as_rgb(image: Image.Image, path: object) -> np.ndarray:
    """A loaded Pillow image as uint8 (H, W, 3) RGB."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.asarray(image)
        # 'I' is what older Pillows call a 16-bit grey PNG; real 32-bit samples have no fixed range.
        if image.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise SamfeatError(
                path, "samples of 32 bits have no fixed range", "save it with 8 or 16 bits"
            )
        grey = (values >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.asarray(image.convert("RGB"))


def _orientation_of(image: Image.Image) -> int:
    value = image.getexif().get(_EXIF_ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _quoted(text: str) -> str:
    """``repr`` for one line of an error, cut where a name is absurdly long."""
    return repr(text if len(text) <= 120 else text[:120] + "...")
