"""The frames of a COLMAP model: which of its photos the cameras of a rig took at once."""

from __future__ import annotations

from pathlib import Path

from .model import cameras_and_images, file_of, reader_of
from .rig_config import Frame, RigCamera


def frames_in(folder: Path) -> list[Frame]:
    """The frames of several photos, in the order of the file; none of a model without rigs.

    Photos of a camera whose place in its rig is unknown are left out.

    Raises:
        SamfeatError: no model, or a damaged one.
    """
    cameras, images = cameras_and_images(folder, observations=False)
    frames_file, rigs_file = file_of(folder, "frames"), file_of(folder, "rigs")
    if not (frames_file.is_file() and rigs_file.is_file()):
        return []
    reader = reader_of(folder)
    rigs = reader.rigs(rigs_file)
    names = {image.image_id: image.name for image in images}
    found = []
    for frame in reader.frames(frames_file):
        sensor_from_rig = rigs[frame.rig_id].sensor_from_rig
        photos = []
        for camera_id, image_id in frame.images:
            cam_from_rig = sensor_from_rig[camera_id]
            if cam_from_rig is not None and image_id in names:
                camera = cameras[camera_id]
                rig_camera = RigCamera("", cam_from_rig, camera.model, camera.params)
                photos.append((rig_camera, names[image_id]))
        if len(photos) > 1:
            found.append(Frame(str(frame.frame_id), photos))
    return found
