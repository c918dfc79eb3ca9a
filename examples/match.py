"""Match two photos and keep the matches that agree with one geometry.

python examples/match.py a.jpg b.jpg
"""

import sys

import cv2

from samfeat_hloc import match

photo0, photo1 = sys.argv[1:]
found = match(photo0, photo1)
print(
    f"{len(found.keypoints0)} and {len(found.keypoints1)} keypoints, {len(found.matches)} matches"
)
if len(found.matches) >= 8:
    _, inliers = cv2.findFundamentalMat(found.matched0, found.matched1, cv2.USAC_MAGSAC, 1.0)
    print(f"{int(inliers.sum())} agree with one epipolar geometry")
