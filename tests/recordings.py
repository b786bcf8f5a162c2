"""A small recorded dataset that lies somewhere: LeRobot v3.0, three episodes of 3, 5 and 2 steps, two views."""

from pathlib import Path
from typing import Any

from builders import make_demonstration

LENGTHS = (3, 5, 2)
INSTRUCTIONS = ("open the drawer", "open the faucet", "open the drawer")
DATA_FILE = "data/chunk-000/file-000.parquet"
COLUMNS: dict[str, Any] = {
    "state": "observation.state",
    "actions": "action",
    "views": {"front": "observation.images.front", "wrist": "observation.images.wrist"},
}


def write_recordings(root: Path, *, seed: int = 0) -> Path:
    """Write the dataset into the new folder `root`; returns it."""
    from vla.sim.demonstrations import DemonstrationsConfig
    from vla.sim.write import write_dataset

    tasks = ("drawer-open-v3", "faucet-open-v3", "drawer-open-v3")
    made = [
        make_demonstration(task, length, side=8, seed=seed + length)
        for task, length in zip(tasks, LENGTHS, strict=True)
    ]
    settings = {"tasks": sorted(set(tasks)), "episodes_per_task": 2, "image_size": [8, 8], "max_steps": 9}
    cfg = DemonstrationsConfig.parse({**settings, "noise": 0, "extras": []}, where="recordings")
    write_dataset(root, made, cfg)
    return root
