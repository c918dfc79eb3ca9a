"""JPEG files by OpenCV: as Pillow decodes them, and other threads of Python go on meanwhile.

Pillow packs the pixels while it holds Python's lock, which keeps a GPU waiting when many threads
decode. OpenCV says nothing of a file that ends too early, so only whole ones are for it.
"""

from __future__ import annotations

import cv2
import numpy as np

_SCAN, _END = b"\xff\xda", b"\xff\xd9"


def pixels(data: bytes) -> np.ndarray | None:
    """RGB uint8 (H, W, 3) as stored, of a colour JPEG; None where the file is not certainly whole
    or OpenCV cannot decode it."""
    # Within a scan 0xff is followed by 0 or by a restart marker, so neither is found there.
    if data.rfind(_END) < data.rfind(_SCAN):
        return None
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        found = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # such as too many pixels for it
        return None
    return None if found is None else cv2.cvtColor(found, cv2.COLOR_BGR2RGB)
