"""A localization service: POST a photo, get the camera's pose in a saved map.

pip install fastapi uvicorn python-multipart
SAMFEAT_MAP=house.map uvicorn --app-dir examples service:app
curl -F photo=@new.jpg localhost:8000/localize

One Localizer serves all requests: FastAPI runs plain functions in threads, which may share it.
"""

import os
from typing import Any

from fastapi import FastAPI, HTTPException, UploadFile
from PIL import Image, UnidentifiedImageError

from samfeat_hloc import Camera, Localizer
from samfeat_hloc.errors import SamfeatError

app = FastAPI()
localizer = Localizer.load(os.environ["SAMFEAT_MAP"])


@app.post("/localize")
def localize(photo: UploadFile, focal: float | None = None) -> dict[str, Any]:
    """Where the photo was taken; ``focal`` in pixels where its EXIF does not say it."""
    try:
        image = Image.open(photo.file)
        camera = None
        if focal is not None:
            width, height = image.size
            camera = Camera("SIMPLE_PINHOLE", width, height, (focal, width / 2, height / 2))
        return localizer.localize(image, camera).as_json()
    except (SamfeatError, UnidentifiedImageError) as error:
        raise HTTPException(status_code=422, detail=str(error)) from error
