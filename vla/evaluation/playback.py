"""Predictions on recorded episodes: the policy sees every recorded step in turn, as if it stood in that robot.

Several episodes are played side by side, one step of each per forward pass, with their memory carried along to the
step that the policy's stride puts next: one path for policies with and without memory, at the price of holding the
frames of all these episodes at once.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8

from vla import keyed
from vla.data.episodes import EpisodeTable
from vla.errors import DataError
from vla.formats import Recordings, pieces
from vla.models import inference
from vla.models.bundle import Bundle
from vla.models.policy import Memory
from vla.terms import Sensing, Steps
from vla.transforms import resize


@dataclass(frozen=True, slots=True)
class PlayedEpisode:
    """One recorded episode with its frames, resized to what the policy sees."""

    row: int
    """Row in the episode table."""
    episode_id: int
    uid: int
    instruction: str
    supervised: int
    """Steps whose recorded actions are right: all, or those up to a terminal one."""
    steps: Steps
    images: dict[str, UInt8[np.ndarray, "T Y X 3"]]

    def sensing(self, step: int) -> Sensing:
        """What the robot sensed at a step."""
        images = {view: frames[step] for view, frames in self.images.items()}
        time = self.steps.timestamp_T[step] - self.steps.timestamp_T[0]
        return Sensing(images, self.steps.state_TS[step], float(time))


def play(
    bundle: Bundle, *, dataset: Recordings, table: EpisodeTable, side_by_side: int, num_steps: int, seed: int
) -> Iterator[tuple[PlayedEpisode, Float32[np.ndarray, "T H A"]]]:
    """Each episode of the table with the chunks predicted at its steps, in raw units."""
    for first in range(0, len(table), side_by_side):
        rows = range(first, min(first + side_by_side, len(table)))
        group = [read_episode(bundle, dataset=dataset, table=table, row=row) for row in rows]
        # Longest first: the episodes that still run are then always the first ones.
        group.sort(key=lambda episode: len(episode.steps), reverse=True)
        yield from zip(group, predict_group(bundle, group, num_steps=num_steps, seed=seed), strict=True)


def read_episode(bundle: Bundle, *, dataset: Recordings, table: EpisodeTable, row: int) -> PlayedEpisode:
    """Read one episode; raises DataError when it has not as many rows as the episode table says, or too few frames."""
    episode_id, length = int(table.episode_id_E[row]), int(table.length_E[row])
    steps = dataset.steps(episode_id)
    if len(steps) != length:
        raise DataError(f"episode {episode_id}: expected {length} rows, found {len(steps)}. Run 'dvc repro validate'.")
    images = {view: _frames(dataset, episode_id, view, length, bundle.spec.image_size) for view in bundle.spec.views}
    return PlayedEpisode(
        row=row,
        episode_id=episode_id,
        uid=int(table.uid_E[row]),
        instruction=table.instructions[table.instruction_E[row]],
        supervised=min(length, int(table.supervised_E[row])),
        steps=steps,
        images=images,
    )


def _frames(
    dataset: Recordings, episode_id: int, view: str, length: int, size: tuple[int, int]
) -> UInt8[np.ndarray, "T Y X 3"]:
    """All frames of a view at the policy's size; at the recorded size they need not fit in memory."""
    parts = pieces(length, dataset.schema.views[view])
    return np.concatenate([resize(dataset.images(episode_id, view, steps_N), size) for steps_N in parts])


def predict_group(
    bundle: Bundle, group: list[PlayedEpisode], *, num_steps: int, seed: int
) -> list[Float32[np.ndarray, "T H A"]]:
    """The chunks predicted at every step of episodes sorted by falling length.

    The noise is keyed by episode and step, so a prediction does not depend on which episodes are played together.
    """
    spec = bundle.spec
    shape = (spec.action_horizon, spec.action_dim)
    chunks = [
        np.empty((len(episode.steps), spec.action_horizon, spec.real_action_dim), np.float32) for episode in group
    ]
    # A policy's steps lie `step_stride` recorded ones apart, so as many sequences of them interleave.
    memories: list[Memory | None] = [None] * spec.step_stride
    for step in range(len(group[0].steps)):
        running = [episode for episode in group if step < len(episode.steps)]
        memory = memories[step % spec.step_stride]
        if memory is not None:
            memory = {name: value[: len(running)] for name, value in memory.items()}
        predicted_BHA, memories[step % spec.step_stride] = inference.predict(
            bundle,
            [episode.sensing(step) for episode in running],
            [episode.instruction for episode in running],
            noise_BHA=np.stack([keyed.normal(seed, "evaluation", item.uid, step, shape=shape) for item in running]),
            memory=memory,
            num_steps=num_steps,
        )
        for chunk_THA, predicted_HA in zip(chunks, predicted_BHA, strict=False):
            chunk_THA[step] = predicted_HA
    return chunks
