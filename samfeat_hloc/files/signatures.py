"""What a file is by its first bytes, whatever its name says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_HEAD = 512
_MOST_HEADER = 100_000_000  # bytes, of safetensors
_HTML = (b"<!doctype html", b"<html", b"<?xml", b"<head")
HDF5_START = b"\x89HDF\r\n\x1a\n"
_STARTS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a git-LFS pointer, not the file itself", "run `git lfs pull`"),
    (b"\xff\xd8\xff", "a JPEG photo", ".jpg"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image", ".png"),
    (b"GIF8", "a GIF image", ".gif"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image", ".jp2"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image", ".jxl"),
    (b"\xff\x0a", "a JPEG XL image", ".jxl"),
    (b"%PDF", "a PDF document", ""),
    (HDF5_START, "an HDF5 file", ""),
    (b"\x1f\x8b", "a gzip archive", "unpack it"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it"),
    (b"Rar!", "a RAR archive", "unpack it"),
)  # fmt: skip
_BRANDS = {  # of the ISO media files, at byte 8
    b"heic": ("an HEIC photo", ".heic"), b"heix": ("an HEIC photo", ".heic"),
    b"hevc": ("an HEIC photo", ".heic"), b"mif1": ("an HEIF photo", ".heif"),
    b"msf1": ("an HEIF photo", ".heif"), b"avif": ("an AVIF photo", ".avif"),
    b"avis": ("an AVIF photo", ".avif"),
}  # fmt: skip


@dataclass(frozen=True)
class Signature:
    """What a file is.

    what: in words, with its article.
    mend: what to do where it should be something else; "" where nothing can be said.
    photo: the ending that such a photo has, ".jpg"; "" for what is no photo.
    """

    what: str
    mend: str = ""
    photo: str = ""


SAFETENSORS = Signature("a safetensors file")
TORCH = Signature("a pickle, such as torch's .pt and .pth")
VIDEO = Signature("a video", "take its frames with `samfeat frames`")


def signature(path: Path) -> Signature | None:
    """What the first bytes say; None where they say nothing, or the file cannot be read."""
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
    except OSError:
        return None
    for start, what, more in _STARTS:
        if head.startswith(start):
            is_photo = more.startswith(".")
            return Signature(what, "" if is_photo else more, more if is_photo else "")
    if head[4:8] == b"ftyp":
        if head[8:12] not in _BRANDS:
            return VIDEO
        what, ending = _BRANDS[head[8:12]]
        return Signature(what, "", ending)
    if head.startswith(b"\x1aE\xdf\xa3") or (head.startswith(b"RIFF") and head[8:12] == b"AVI "):
        return VIDEO
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return Signature("a WebP image", "", ".webp")
    if head.startswith((b"II*\0", b"MM\0*")):
        return Signature("a TIFF image", "", ".tif")
    if head.startswith(b"BM") and head[6:10] == b"\0\0\0\0":
        return Signature("a BMP image", "", ".bmp")
    if head.startswith(b"PK\x03\x04"):
        if b"/data.pkl" in head or b"/.format_version" in head:
            return TORCH
        return Signature("a zip archive", "unpack it")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < _MOST_HEADER:
        return SAFETENSORS
    if head[:1] == b"\x80" and head[1:2] in b"\2\3\4\5":
        return TORCH  # as torch wrote it before it took to zips, or any other pickle
    if head.lstrip().lower().startswith(_HTML):
        return Signature("a web page, not the file that was to be downloaded", "download it again")
    return None
