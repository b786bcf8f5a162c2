"""Small datasets for tests: of arrays without any files, and as the folder that the download stage leaves."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from vla.errors import DataError
from vla.formats import EPISODES, Claims
from vla.normalization import Statistics
from vla.terms import DatasetSchema, Steps, Tasks

FPS = 10.0


@dataclass(frozen=True)
class ArrayEpisode:
    """One episode as arrays; `error` makes reading its numbers fail, `image_errors` reading a view's frames."""

    state_TS: np.ndarray
    actions_TA: np.ndarray
    images: Mapping[str, np.ndarray]
    timestamp_T: np.ndarray
    instruction: str = "open the drawer"
    length: int | None = None
    """What the metadata says; None for the true length."""
    error: str = ""
    image_errors: Mapping[str, str] = field(default_factory=dict)
    frame_counts: Mapping[str, int] = field(default_factory=dict)
    """View -> frames in its own video file, for views that have one."""
    block_error: str = ""
    """Makes finding the places fail at which reading images can begin."""
    recorded: Mapping[str, Any] = field(default_factory=dict)
    """`state` and `actions` -> their range by the dataset's own statistics."""
    supervised: int | None = None
    """Steps before a terminal one; None for all."""
    tasks: Tasks | None = None


class ArrayDataset:
    """A vla.formats.Recordings over arrays; episode ids are positions unless `ids` says otherwise."""

    def __init__(self, episodes: Sequence[ArrayEpisode], *, ids: Sequence[int] | None = None, **schema: Any) -> None:
        self._ids = list(range(len(episodes)) if ids is None else ids)
        self._episodes = dict(zip(self._ids, episodes, strict=True))
        first = episodes[0]
        described: dict[str, Any] = {
            "name": "arrays",
            "format": "arrays",
            "fps": FPS,
            "views": {view: frames.shape[1:3] for view, frames in first.images.items()},
            "state_names": tuple(f"s{index}" for index in range(first.state_TS.shape[1])),
            "action_names": tuple(f"a{index}" for index in range(first.actions_TA.shape[1])),
            "robot": "none",
            "state_columns": {"state": first.state_TS.shape[1]},
        }
        self.schema = DatasetSchema(**{**described, **schema})
        self.claimed = Claims()

    def episodes(self) -> pa.Table:
        rows = [self._episodes[number] for number in self._ids]
        lengths = [len(row.timestamp_T) if row.length is None else row.length for row in rows]
        supervised = [
            length if row.supervised is None else row.supervised for length, row in zip(lengths, rows, strict=True)
        ]
        columns = [self._ids, lengths, [row.instruction for row in rows], supervised, ["arrays"] * len(rows)]
        return pa.table(columns, schema=EPISODES.append(pa.field("source", pa.string())))

    def steps(self, episode_id: int) -> Steps:
        episode = self._episodes[episode_id]
        if episode.error:
            raise DataError(episode.error)
        return Steps(episode.timestamp_T, episode.state_TS, episode.actions_TA)

    def images(self, episode_id: int, view: str, steps_N: np.ndarray | None = None) -> np.ndarray:
        episode = self._episodes[episode_id]
        if view in episode.image_errors:
            raise DataError(episode.image_errors[view])
        frames = episode.images[view]
        if steps_N is not None and len(steps_N) and steps_N.max() >= len(frames):
            raise DataError(f"expected a frame for step {steps_N.max()}, found {len(frames)}")
        return frames if steps_N is None else frames[steps_N]

    def frame_count(self, episode_id: int, view: str) -> int | None:
        return self._episodes[episode_id].frame_counts.get(view)

    def depth(self, episode_id: int, view: str, steps_N: np.ndarray | None = None) -> np.ndarray:
        raise DataError("expected no request for depth")

    def block_starts(self, episode_id: int) -> np.ndarray:
        if self._episodes[episode_id].block_error:
            raise DataError(self._episodes[episode_id].block_error)
        return np.zeros(1, dtype=np.int64)

    def recorded_ranges(self, episode_id: int) -> Mapping[str, Any]:
        return self._episodes[episode_id].recorded

    def tasks(self, episode_id: int) -> Tasks | None:
        return self._episodes[episode_id].tasks

    def uid_parts(self, episode_id: int) -> tuple[str, int]:
        return self.schema.name, episode_id

    def metadata_files(self) -> list[Path]:
        return []

    def episode_files(self, episode_id: int) -> list[Path]:
        return []

    def data_folders(self) -> tuple[str, ...]:
        return ()

    def claims(self) -> Claims:
        return self.claimed


def make_sources(*datasets: Any, left_out: Mapping[str, int] | None = None) -> Any:
    """The datasets as `vla.data.sources` opens them, the first as the main one, with an empty manifest each."""
    from vla.data.manifest import Manifest
    from vla.data.selection import Selected
    from vla.data.sources import Source, Sources

    manifest = Manifest("arrays", {"kind": "local"}, "/nowhere", files=())
    chosen = [Selected(data.episodes().select(EPISODES.names), left_out or {}) for data in datasets]
    return Sources(
        [
            Source(data.schema.name, number, data, manifest, selected, None)
            for number, (data, selected) in enumerate(zip(datasets, chosen, strict=True))
        ]
    )


def make_episode(length: int = 6, *, seed: int = 0, **changes: Any) -> ArrayEpisode:
    """A healthy episode: 3 state and 2 action dimensions, views front and wrist of 4 x 6 pixels, noise from `seed`."""
    rng = np.random.default_rng(seed)
    made: dict[str, Any] = {
        "state_TS": rng.normal(size=(length, 3)).astype(np.float32),
        "actions_TA": rng.normal(size=(length, 2)).astype(np.float32),
        "images": {view: rng.integers(0, 256, (length, 4, 6, 3), dtype=np.uint8) for view in ("front", "wrist")},
        "timestamp_T": np.arange(length, dtype=np.float64) / FPS,
    }
    return ArrayEpisode(**{**made, **changes})


def make_statistics(values: Any) -> Statistics:
    """Statistics of rows of values, by numpy."""
    rows = np.asarray(values, dtype=np.float64)
    q01, q50, q99 = np.quantile(rows, [0.01, 0.5, 0.99], axis=0)
    return Statistics(rows.mean(axis=0), rows.std(axis=0), rows.min(axis=0), rows.max(axis=0), q01, q50, q99, len(rows))


TASKS = ("drawer-open-v3", "faucet-open-v3")


def make_demonstration(
    task: str = TASKS[0], length: int = 6, *, side: int = 16, seed: int = 0, brightness: float = 1.0
) -> Any:
    """A demonstration as the simulator source makes them, of noise instead of physics: two views of side x side."""
    from vla.sim import world
    from vla.sim.demonstrations import Demonstration

    rng = np.random.default_rng(seed)
    shape = (length, side, side, 3)
    frames = {view: (rng.integers(0, 256, shape) * brightness).astype(np.uint8) for view in world.VIEWS}
    return Demonstration(
        task=task,
        instruction=world.instruction(task),
        state_TS=rng.normal(size=(length, len(world.STATE_NAMES))).astype(np.float32),
        actions_TA=rng.normal(size=(length, len(world.ACTION_NAMES))).astype(np.float32),
        images={view: [_png(frame) for frame in images] for view, images in frames.items()},
        image_counts={
            view: np.stack([np.bincount(images[..., channel].ravel(), minlength=256) for channel in range(3)])
            for view, images in frames.items()
        },
        extras={},
    )


def write_dataset_folder(folder: Path, demonstrations: Sequence[Any], *, side: int = 16) -> Path:
    """What the download stage leaves: a LeRobot v3.0 dataset with its manifest, readable by params.yaml's columns."""
    from vla.sim.demonstrations import DemonstrationsConfig
    from vla.sim.write import write_dataset

    settings = {"tasks": list(TASKS), "episodes_per_task": 1, "image_size": [side, side], "max_steps": 150}
    cfg = DemonstrationsConfig.parse({**settings, "noise": 0.0, "extras": []}, where="builders")
    write_dataset(folder, demonstrations, cfg)
    write_manifest(folder)
    return folder


def write_manifest(folder: Path) -> None:
    from vla.data.manifest import FILE_NAME, Manifest

    files = [path for path in folder.rglob("*") if path.is_file() and path.name != FILE_NAME]
    source = {"kind": "sim"}
    Manifest.describe(files, root=folder, format_name="lerobot_v30", source=source, in_place=False).write(folder)


def set_number(folder: Path, *, column: str, episode: int, step: int, dimension: int, value: float) -> None:
    """Change one number of a written dataset, NaN included, and list the changed file in the manifest."""
    path = folder / "data/chunk-000/file-000.parquet"
    file = pq.ParquetFile(path)
    groups = [file.read_row_group(index) for index in range(file.num_row_groups)]
    place = groups[episode].schema.get_field_index(column)
    values = np.stack(groups[episode][column].to_numpy())
    values[step, dimension] = value
    kind = groups[episode].schema.field(column).type
    changed = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=kind)
    groups[episode] = groups[episode].set_column(place, groups[episode].schema.field(column), changed)
    with pq.ParquetWriter(path, file.schema_arrow) as writer:
        for group in groups:
            writer.write_table(group)
    write_manifest(folder)


def _png(frame: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(frame).save(stream, "PNG")
    return stream.getvalue()
