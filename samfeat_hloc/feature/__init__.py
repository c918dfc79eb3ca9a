"""The local feature: network, extraction, matching, and RootSIFT to compare with.

Arrays and coordinates, here and in every feature file:

- ``keypoints`` (N, 2): x to the right, y down, in pixels of the image as it is stored or given; the
  **centre** of the top-left pixel is at (0, 0), as in hloc. Best first.
- ``keypoint_scores`` (N,), in (0, 1) for SAMFeat.
- ``descriptors`` (D, N), a column a keypoint, as in hloc.
- ``image_size`` (2,): width and height.
- ``matches0`` (N0,) in match files: for each keypoint of image 0 the row of image 1, or -1. In
  memory ``matches`` (K, 2): a row of image 0's keypoints and one of image 1's.

COLMAP counts pixels from the **corner** of the top-left one, whose centre is then (0.5, 0.5).
Reference models, intrinsics, saved maps and what a localizer returns follow COLMAP: half a pixel is
added where keypoints leave a feature file for COLMAP. In saved maps descriptors are rows, (N, D).
"""
