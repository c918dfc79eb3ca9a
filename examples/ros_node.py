"""A ROS 2 node: images and intrinsics come in, the camera's pose in a saved map goes out.

export SAMFEAT_MAP=house.map
python examples/ros_node.py --ros-args -r image:=/image_raw -r camera_info:=/camera_info

The queue is one image long: while an image is localized, newer ones take the place of those that
wait. An image that the map does not show is logged, and no pose is published.
"""

import os
from typing import Any

import numpy as np

from samfeat_hloc import Camera, Localizer
from samfeat_hloc.colmap.poses import Pose


def camera_of(info: Any) -> Camera:
    """Intrinsics of a sensor_msgs/CameraInfo: ROS has the centre of the first pixel at (0, 0),
    COLMAP its corner."""
    fx, fy, cx, cy = info.k[0], info.k[4], info.k[2] + 0.5, info.k[5] + 0.5
    if not any(info.d):
        return Camera("PINHOLE", info.width, info.height, (fx, fy, cx, cy))
    if info.distortion_model != "plumb_bob" or any(info.d[4:]):
        raise ValueError(f"rectify the images: {info.distortion_model} {list(info.d)}")
    return Camera("OPENCV", info.width, info.height, (fx, fy, cx, cy, *info.d[:4]))


def pixels_of(image: Any) -> np.ndarray:
    """A sensor_msgs/Image of encoding rgb8, bgr8 or mono8, as (H, W, 3) or (H, W) RGB."""
    channels = {"rgb8": 3, "bgr8": 3, "mono8": 1}[image.encoding]
    rows = np.frombuffer(image.data, dtype=np.uint8).reshape(image.height, image.step)
    pixels = rows[:, : image.width * channels].reshape(image.height, image.width, channels)
    return (
        pixels[..., 0] if channels == 1 else pixels[..., :: 1 if image.encoding == "rgb8" else -1]
    )


def fill(message: Any, pose: Pose) -> Any:
    """A geometry_msgs/Pose of the camera in the map, of its pose from the map to the camera."""
    in_map = pose.inverse()
    message.position.x, message.position.y, message.position.z = map(float, in_map.tvec)
    w, x, y, z = map(float, in_map.qvec)
    message.orientation.w, message.orientation.x = w, x
    message.orientation.y, message.orientation.z = y, z
    return message


def main() -> None:
    """Localize until the node is stopped."""
    import rclpy
    from geometry_msgs.msg import PoseStamped
    from rclpy.node import Node
    from sensor_msgs.msg import CameraInfo, Image

    rclpy.init()
    node = Node("samfeat")
    localizer = Localizer.load(os.environ["SAMFEAT_MAP"])
    publisher = node.create_publisher(PoseStamped, "pose", 1)
    known: list[Camera] = []

    def on_info(info: Any) -> None:
        known[:] = [camera_of(info)]

    def on_image(image: Any) -> None:
        found = localizer.localize(pixels_of(image), known[0] if known else None)
        if found.pose is None:
            node.get_logger().warning(f"not localized, {found.refused}")
            return
        message = PoseStamped()
        message.header.stamp, message.header.frame_id = image.header.stamp, "map"
        fill(message.pose, found.pose)
        publisher.publish(message)

    node.create_subscription(CameraInfo, "camera_info", on_info, 1)
    node.create_subscription(Image, "image", on_image, 1)
    rclpy.spin(node)


if __name__ == "__main__":
    main()
