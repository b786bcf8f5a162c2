"""What OmniGibson, the simulator of BEHAVIOR-1K, calls the cameras of its robot, and how its videos show instances.

Sources: `ROBOT_CAMERA_NAMES` of `omnigibson/learning/utils/eval_utils.py` and `SegVideoLoader`, `write_video` and
`generate_yuv_palette` of `omnigibson/learning/utils/obs_utils.py` in StanfordVL/BEHAVIOR-1K.
"""

import math
from collections.abc import Sequence
from itertools import islice, product

import numpy as np
from jaxtyping import Int64, UInt8

CAMERAS = {
    "head": ":zed_link:Camera:0::",
    "left_wrist": ":left_realsense_link:Camera:0::",
    "right_wrist": ":right_realsense_link:Camera:0::",
}
"""Camera of 2025-challenge-demos -> the middle of the simulator's keys about it.

Before it is the robot's name, as in `robot_r1::robot_r1:zed_link:Camera:0::rgb`, and after it what is sensed.
"""


def palette(count: int) -> UInt8[np.ndarray, "K 3"]:
    """The colours of `count` instances: an even grid, of which the last colours stay unused."""
    side = math.ceil(count ** (1 / 3))
    axes = [np.linspace(16, highest, side) for highest in (235, 240, 240)]
    return np.array(list(islice(product(*axes), count)), dtype=np.uint8).reshape(count, 3)


def instance_ids(image: UInt8[np.ndarray, "Y X 3"], ids: Sequence[int]) -> Int64[np.ndarray, "Y X"]:
    """The instance that each pixel shows: that of the nearest colour, since the video's compression blurs them.

    `ids` are the instances that the video shows, in the order in which they were given colours.
    """
    codes, places = np.unique(image.reshape(-1, 3) @ np.array([1 << 16, 1 << 8, 1]), return_inverse=True)
    colours = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=1)
    distances = ((colours[:, None] - palette(len(ids)).astype(np.int64)) ** 2).sum(axis=2)
    return np.array(ids, dtype=np.int64)[distances.argmin(axis=1)][places].reshape(image.shape[:2])
