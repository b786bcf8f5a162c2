"""Small datasets of every format, made of known arrays: name -> `Miniature`, which writes one when called."""

from tests.formats import miniature_behavior, miniature_stepwise
from tests.formats.miniature_lerobot import (
    COLUMNS,
    SIZE,
    TASKS,
    Episode,
    Miniature,
    write_lerobot_v2,
    write_lerobot_v30,
    write_lerobot_v30_video,
)

__all__ = ["COLUMNS", "MINIATURES", "SIZE", "TASKS", "Episode", "Miniature"]

MINIATURES: dict[str, Miniature] = {
    "lerobot_v20": Miniature("lerobot_v20", lambda root: write_lerobot_v2(root, "v2.0", "image")),
    "lerobot_v20 video": Miniature("lerobot_v20", lambda root: write_lerobot_v2(root, "v2.0", "video")),
    "lerobot_v21": Miniature("lerobot_v21", lambda root: write_lerobot_v2(root, "v2.1", "image")),
    "lerobot_v21 video": Miniature("lerobot_v21", lambda root: write_lerobot_v2(root, "v2.1", "video")),
    "lerobot_v30": Miniature("lerobot_v30", write_lerobot_v30),
    "lerobot_v30 video": Miniature("lerobot_v30", write_lerobot_v30_video),
    "behavior_2025": Miniature("behavior_2025", miniature_behavior.write_behavior, miniature_behavior.COLUMNS),
    "stepwise": Miniature(
        "stepwise", miniature_stepwise.write_stepwise, miniature_stepwise.COLUMNS, has_metadata=False
    ),
}
"""At least one per format."""
