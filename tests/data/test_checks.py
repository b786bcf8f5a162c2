"""Each check of an episode finds its fault, says where it is, and finds nothing else."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from builders import FPS, ArrayDataset, ArrayEpisode, make_episode, make_sources
from inspections import findings, inspected

from vla.data.inspection import ALL_CHECKS, EPISODE_CHECKS
from vla.data.recording import View
from vla.terms import Tasks


class Counting(ArrayDataset):
    """Notes the steps whose frames it is asked for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.asked: list[list[int]] = []

    def images(self, episode_id: int, view: str, steps_N: np.ndarray | None = None) -> np.ndarray:
        self.asked.append([] if steps_N is None else steps_N.tolist())
        return super().images(episode_id, view, steps_N)


def among_sound_ones(faulty: ArrayEpisode) -> ArrayDataset:
    """Episode 7 is the faulty one."""
    return ArrayDataset([make_episode(seed=1), faulty, make_episode(seed=2)], ids=[3, 7, 8])


def with_value(values: np.ndarray, place: tuple[int, int], value: float) -> np.ndarray:
    changed = values.copy()
    changed[place] = value
    return changed


def still(episode: ArrayEpisode, stretch: slice) -> ArrayEpisode:
    """The wrist camera shows one frame during the stretch."""
    frames = episode.images["wrist"].copy()
    frames[stretch] = frames[stretch.start]
    return replace(episode, images={**episode.images, "wrist": frames})


def recorded(**changes: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Ranges as a dataset records them."""
    columns = {"state": changes.get("state_TS", SOUND.state_TS), "actions": changes.get("actions_TA", SOUND.actions_TA)}
    return {
        name: (values.min(axis=0).astype(float), values.max(axis=0).astype(float)) for name, values in columns.items()
    }


SOUND = make_episode(seed=5)
FRAMES = SOUND.images["front"]
EPISODE_FAULTS = {
    "readable": (replace(SOUND, error="file-000.parquet: expected Parquet, found text"), "expected Parquet, found"),
    "shapes": (replace(SOUND, state_TS=SOUND.state_TS[:, :2]), "expected state float32 [6, 3], found float32 [6, 2]"),
    "shapes, type": (
        replace(SOUND, actions_TA=SOUND.actions_TA.astype(np.float64)),
        "expected actions float32 [6, 2], found float64 [6, 2]",
    ),
    "step_count": (replace(SOUND, length=9), "expected 9 steps by the metadata, found 6 rows"),
    "finite": (
        replace(SOUND, state_TS=with_value(SOUND.state_TS, (4, 2), np.nan)),
        "step 4: expected a finite number for state s2, found nan (1 of 6 steps)",
    ),
    "finite, action": (
        replace(SOUND, actions_TA=with_value(SOUND.actions_TA, (0, 1), -np.inf)),
        "step 0: expected a finite number for action a1, found -inf (1 of 6 steps)",
    ),
    "decodable": (
        replace(SOUND, image_errors={"wrist": "row 3: expected PNG, found 12 bytes of text"}),
        "view wrist: row 3: expected PNG",
    ),
    "decodable, missing frames": (
        replace(SOUND, images={**SOUND.images, "wrist": FRAMES[:4]}),
        "view wrist: expected a frame for step 5, found 4",
    ),
    "decodable, blocks": (replace(SOUND, block_error="front.mp4: expected key frames"), "front.mp4: expected key"),
    "frames, fewer": (
        replace(SOUND, frame_counts={"wrist": 4}),
        "view wrist: expected 6 frames, one per step, found 4",
    ),
    "frames, more": (
        replace(SOUND, frame_counts={"wrist": 8, "front": 6}),
        "view wrist: expected 6 frames, one per step, found 8",
    ),
    "frames, size": (
        replace(SOUND, images={**SOUND.images, "wrist": FRAMES[:, :3]}),
        "view wrist: expected 4x6 pixels, found 3x6",
    ),
    "timestamps, start": (
        replace(SOUND, timestamp_T=SOUND.timestamp_T + 1_700_000_000),
        "step 0: expected seconds since the start of the episode, found 1700000000",
    ),
    "timestamps, frozen": (
        replace(SOUND, timestamp_T=np.array([0, 0.1, 0.2, 0.2, 0.3, 0.4])),
        "step 3: expected a timestamp 0.1 s after the one before, found the same timestamp (1 of 5 steps)",
    ),
    "timestamps, backwards": (
        replace(SOUND, timestamp_T=np.array([0, 0.1, 0.2, 0.3, 0.4, 0.05])),
        "step 5: expected a timestamp 0.1 s after the one before, found one 0.35 s before it (1 of 5 steps)",
    ),
    "timestamps, gap": (
        replace(SOUND, timestamp_T=np.array([0, 0.1, 0.7, 0.8, 0.9, 1.0])),
        "step 2: expected a timestamp 0.1 s after the one before, found a gap of 0.6 s (1 of 5 steps)",
    ),
    "timestamps, hurry": (
        replace(SOUND, timestamp_T=SOUND.timestamp_T * 0.9),
        "step 1: expected a timestamp 0.1 s after the one before, found 0.09 s (5 of 5 steps)",
    ),
    "timestamps, nan": (
        replace(SOUND, timestamp_T=np.array([0, 0.1, np.nan, 0.3, 0.4, 0.5])),
        "step 2: expected a timestamp 0.1 s after the one before, found no number (2 of 5 steps)",
    ),
    "recorded_range": (
        replace(SOUND, recorded={"state": (np.array([-9.0, 0.0, -9.0]), np.full(3, 9.0))}),
        "expected state s1 within the recorded 0 to 9, found -",
    ),
    "recorded_range, action": (
        replace(SOUND, recorded={"actions": (np.zeros(2), np.ones(2))}),
        "expected action a0 within the recorded 0 to 1, found ",
    ),
    "instruction": (replace(SOUND, instruction="  "), "expected an instruction, found an empty text"),
    "task_index": (
        replace(SOUND, tasks=Tasks(listed=frozenset({"open"}), in_rows=frozenset({"open", "close"}))),
        "expected rows of the task 'open' as listed, found 'close'",
    ),
    "black_view": (
        replace(SOUND, images={**SOUND.images, "wrist": FRAMES // 200}),
        "view wrist: expected a picture, found black in all 6 frames",
    ),
    "frozen_view": (
        replace(SOUND, images={**SOUND.images, "front": np.repeat(FRAMES[:1], 6, axis=0)}),
        "view front: expected a changing picture, found 6 equal frames",
    ),
    "frozen_stretch": (
        still(make_episode(60, seed=5), slice(10, 40)),
        "view wrist, step 10: expected a changing picture while the state moves, found 30 equal frames (50% of the",
    ),
    "after_terminal": (
        replace(SOUND, supervised=4),
        "step 4: expected the end after a terminal step, found 2 of 6 steps more: their actions are not supervised",
    ),
}


WARNINGS = {"after_terminal", "frozen_stretch"}


@pytest.mark.parametrize("fault", EPISODE_FAULTS)
def test_a_faulty_episode_is_found_by_its_check_alone(fault):
    episode, message = EPISODE_FAULTS[fault]
    [finding] = findings(among_sound_ones(episode))
    name = fault.split(",")[0]
    assert (finding.check, finding.episode_id, finding.where) == (name, 7, "episode 7")
    assert finding.level == ("warning" if name in WARNINGS else "error")
    assert message in finding.message


def test_every_check_of_episodes_is_tried_with_a_fault():
    assert {name.split(",")[0] for name in EPISODE_FAULTS} == {check.name for check in EPISODE_CHECKS}


def test_sound_episodes_have_no_findings():
    assert findings(among_sound_ones(SOUND)) == []


def test_names_of_checks_are_distinct():
    names = [check.name for check in ALL_CHECKS]
    assert len(names) == len(set(names))


def test_every_dimension_with_a_wrong_number_is_named():
    actions = np.full((6, 2), np.nan, dtype=np.float32)
    found = findings(among_sound_ones(replace(SOUND, actions_TA=actions)))
    assert [finding.message.split(",")[0] for finding in found] == [
        "step 0: expected a finite number for action a0",
        "step 0: expected a finite number for action a1",
    ]


def test_a_fault_that_makes_an_episode_unusable_ends_its_checks():
    faulty = replace(SOUND, length=9, instruction="", timestamp_T=SOUND.timestamp_T * 2)
    assert [finding.check for finding in findings(among_sound_ones(faulty))] == ["step_count"]


def test_several_other_faults_of_an_episode_are_all_found():
    faulty = replace(SOUND, instruction="", timestamp_T=SOUND.timestamp_T * 2)
    assert [finding.check for finding in findings(among_sound_ones(faulty))] == ["timestamps", "instruction"]


def test_a_demoted_check_finds_warnings():
    faulty = replace(SOUND, timestamp_T=SOUND.timestamp_T * 1.1)
    [finding] = findings(among_sound_ones(faulty), warn_only=["timestamps"])
    assert (finding.check, finding.level) == ("timestamps", "warning")


def test_a_wider_tolerance_accepts_late_steps():
    faulty = replace(SOUND, timestamp_T=SOUND.timestamp_T * 1.1)
    assert findings(among_sound_ones(faulty), timestamp_tolerance=0.11) == []


def test_a_single_step_is_not_frozen():
    assert findings(ArrayDataset([make_episode(1), make_episode(6, seed=3)])) == []


def test_float32_timestamps_of_an_hour_are_in_time():
    hour = np.arange(36_000, dtype=np.float32) / np.float32(FPS)
    episode = make_episode(6)
    long = make_episode(len(hour), timestamp_T=hour.astype(np.float64))
    assert findings(ArrayDataset([long]), timestamp_tolerance=1e-5) == []
    # At the start of an episode the same deviation is none of rounding.
    early = replace(episode, timestamp_T=episode.timestamp_T + np.repeat([0, 2e-4], 3))
    assert [finding.check for finding in findings(ArrayDataset([early]), timestamp_tolerance=1e-5)] == ["timestamps"]


def test_recorded_ranges_may_be_rounded_but_not_otherwise_differ():
    low, high = recorded()["state"]
    rounded = {"state": (low.astype(np.float32).astype(float), np.nextafter(high.astype(np.float32), -9).astype(float))}
    assert findings(ArrayDataset([replace(SOUND, recorded=rounded)])) == []
    narrow = {"state": (low, high - [0, 1e-4, 0])}
    [finding] = findings(ArrayDataset([replace(SOUND, recorded=narrow)]))
    assert finding.message.startswith(f"step {SOUND.state_TS[:, 1].argmax()}: expected state s1 within")
    assert finding.message.endswith("(1 of 6 steps, 1 of 3 dimensions)")


def test_columns_that_have_changed_places_are_recognised_by_the_recorded_ranges():
    rng = np.random.default_rng(0)
    first, second = (rng.normal(size=(6, 3)).astype(np.float32) for _ in range(2))
    names = {"action_names": ("a0", "a1", "a2")}
    swapped = replace(SOUND, state_TS=second, actions_TA=first, recorded=recorded(state_TS=first, actions_TA=second))
    assert [finding.message for finding in findings(ArrayDataset([swapped], **names))] == [
        "expected the recorded state, found the recorded actions: the columns are swapped",
        "expected the recorded actions, found the recorded state: the columns are swapped",
    ]


def test_a_camera_may_stand_still_while_nothing_moves():
    episode = still(make_episode(60, seed=5), slice(10, 40))
    episode.state_TS[10:40] = episode.state_TS[10]
    assert findings(ArrayDataset([episode])) == []


@pytest.mark.parametrize(("stop", "is_found"), [(29, False), (31, True)])
def test_a_short_standstill_is_no_finding(stop, is_found):
    # Two seconds are 20 steps, of 60 steps a third.
    found = findings(ArrayDataset([still(make_episode(60, seed=5), slice(10, stop))]))
    assert [finding.check for finding in found] == ["frozen_stretch"] * is_found


def test_only_the_ends_and_the_middle_are_decoded_on_request():
    data = Counting([make_episode(9)])
    assert findings(data, frames="ends") == []
    assert data.asked == [[0, 4, 8], [0, 4, 8]]
    data.asked.clear()
    inspection = inspected(make_sources(data), frames="none")
    assert data.asked == []
    assert inspection.survey.pictures == {}


def test_faults_of_pictures_are_found_by_their_ends_too():
    frozen = {**SOUND.images, "front": np.repeat(FRAMES[:1], 6, axis=0)}
    dark = {**SOUND.images, "front": FRAMES * 0}
    for images, check in ((frozen, "frozen_view"), (dark, "black_view")):
        [finding] = findings(ArrayDataset([replace(SOUND, images=images)]), frames="ends")
        assert finding.check == check
    last = replace(SOUND, images={**SOUND.images, "front": FRAMES[:5]})
    assert [finding.check for finding in findings(ArrayDataset([last]), frames="ends")] == ["decodable"]


def test_long_episodes_are_decoded_in_pieces(monkeypatch):
    monkeypatch.setattr("vla.formats.PIECE_BYTES", 4 * 6 * 3 * 4)
    whole = make_episode(10)
    data = Counting([whole])
    assert findings(data) == []
    assert data.asked == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]] * 2
    # A repetition across the edge of two pieces is one.
    [finding] = findings(Counting([replace(whole, images={**whole.images, "wrist": whole.images["wrist"][[0] * 10]})]))
    assert finding.message == "view wrist: expected a changing picture, found 10 equal frames"


def test_a_view_is_black_only_if_no_frame_is_bright():
    frames = np.zeros((4, 2, 2, 3), dtype=np.uint8)
    assert View.of(frames).is_black
    frames[2] = 9
    assert not View.of(frames).is_black
    assert View.of(frames).is_repeat_N.tolist() == [False, True, False, False]


@pytest.mark.parametrize("name", ["timestamps", "instruction"])
def test_a_skipped_check_finds_nothing(name):
    faulty = replace(SOUND, instruction="", timestamp_T=SOUND.timestamp_T * 2)
    found = findings(ArrayDataset([faulty]), skip=[name])
    assert {finding.check for finding in found} == {"timestamps", "instruction"} - {name}
