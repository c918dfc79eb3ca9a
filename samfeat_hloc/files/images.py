"""Reading photos: RGB uint8 in the stored orientation, whatever the file holds.

COLMAP and hloc work on the pixels as they are stored: the EXIF orientation is not applied. So
does this module; ``to_upright`` and ``keypoints_to_stored`` are there for whoever needs to look
at a photo the right way up and bring keypoints back.
"""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError, features

from ..errors import SamfeatError, cause_of, in_one_line
from .signatures import signature

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
        wrong = "it has white space, which text lists of images cannot hold; rename the file"
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

    Raises:
        SamfeatError: as ``read_image``.
    """
    with _opened(path) as image:
        return _decoded(image, path)


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
        return image.getexif()


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


def to_upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror a stored image (H, W[, C]) so that it stands as EXIF ``orientation`` says.

    Returns a C-contiguous copy; sides are swapped for orientations 5 to 8.
    """
    _check_orientation(orientation)
    if orientation in (5, 7):
        image = image.swapaxes(0, 1)
    turns, mirror_x, mirror_y = {
        1: (0, False, False),
        2: (0, True, False),
        3: (0, True, True),
        4: (0, False, True),
        5: (0, False, False),
        6: (-1, False, False),
        7: (0, True, True),
        8: (1, False, False),
    }[orientation]
    image = np.rot90(image, turns) if turns else image
    image = image[:, ::-1] if mirror_x else image
    image = image[::-1] if mirror_y else image
    return np.array(image, order="C")


def turned(orientation: int, quarters: int) -> int:
    """The orientation, 1 to 8, of an image that is to stand turned by ``quarters`` quarters,
    clockwise, from how it stands at ``orientation``."""
    sample = np.arange(6).reshape(2, 3)
    wanted = np.rot90(to_upright(sample, orientation), -quarters)
    return next(o for o in range(1, 9) if np.array_equal(to_upright(sample, o), wanted))


def keypoints_to_stored(
    keypoints: np.ndarray, orientation: int, stored_size_wh: tuple[int, int]
) -> np.ndarray:
    """Bring keypoints found on an upright image back to the pixels of the stored one.

    Args:
        keypoints: (N, 2) xy on ``to_upright(stored, orientation)``, centre of the top-left pixel
            at (0, 0).
        orientation: EXIF orientation of the stored image, 1 to 8.
        stored_size_wh: width and height of the stored image in pixels.

    Returns:
        (N, 2) xy on the stored image, of the dtype of ``keypoints``.
    """
    _check_orientation(orientation)
    keypoints = np.asarray(keypoints)
    x, y = keypoints[:, 0], keypoints[:, 1]
    right, bottom = stored_size_wh[0] - 1, stored_size_wh[1] - 1
    stored_x, stored_y = {
        1: (x, y),
        2: (right - x, y),
        3: (right - x, bottom - y),
        4: (x, bottom - y),
        5: (y, x),
        6: (y, bottom - x),
        7: (right - y, bottom - x),
        8: (right - y, x),
    }[orientation]
    return np.stack([stored_x, stored_y], axis=1).astype(keypoints.dtype, copy=False)


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
                "scale it down or remove it",
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
            path, f"the image is truncated or broken ({why})", "fetch it again or remove it"
        ) from None


def _not_an_image(path: Path) -> SamfeatError:
    found = signature(path)
    if found is None:
        what, mend = "this is not an image (whatever its name says)", "replace or remove it"
    elif found.photo in UNREAD:
        what, mend = f"this is {found.what}", UNREAD[found.photo]
    else:
        what, mend = f"this is {found.what}", found.mend or "replace or remove it"
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


def _check_orientation(orientation: int) -> None:
    if not 1 <= orientation <= 8:
        raise ValueError(f"EXIF orientation has to be 1 to 8, not {orientation}")


def _quoted(text: str) -> str:
    """``repr`` for one line of an error, cut where a name is absurdly long."""
    return repr(text if len(text) <= 120 else text[:120] + "...")
