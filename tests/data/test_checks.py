"""Each check finds its fault, says where it is, and finds nothing else."""

from dataclasses import replace

import numpy as np
import pytest
from builders import ArrayDataset, ArrayEpisode, make_episode
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vla.data.checks import DATASET_CHECKS, EPISODE_CHECKS, SURVEY_CHECKS, Finding
from vla.data.survey import Extremes, Survey
from vla.data.validate import ValidateConfig, inspect

SETTINGS = {"holdout": 0.1, "on_bad_episode": "stop", "timestamp_tolerance": 0.01, "warn_only": []}


def findings(data: ArrayDataset, *, listed: frozenset[str] = frozenset(), **settings: object) -> list[Finding]:
    cfg = ValidateConfig.parse({**SETTINGS, **settings}, where="test")
    return list(inspect(data, cfg, listed=listed).findings)


def among_sound_ones(faulty: ArrayEpisode) -> ArrayDataset:
    """Episode 7 is the faulty one."""
    return ArrayDataset([make_episode(seed=1), faulty, make_episode(seed=2)], ids=[3, 7, 8])


def with_value(values: np.ndarray, place: tuple[int, int], value: float) -> np.ndarray:
    changed = values.copy()
    changed[place] = value
    return changed


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
    "frames": (
        replace(SOUND, images={**SOUND.images, "wrist": FRAMES[:4]}),
        "view wrist: expected 6 frames, one per step, found 4",
    ),
    "frames, size": (
        replace(SOUND, images={**SOUND.images, "wrist": FRAMES[:, :3]}),
        "view wrist: expected 4x6 pixels, found 3x6",
    ),
    "timestamps": (
        replace(SOUND, timestamp_T=np.array([0, 0.1, 0.2, 0.2, 0.3, 0.4])),
        "step 3: expected a timestamp 0.1 s after the one before, found 0 s (1 of 5 steps)",
    ),
    "timestamps, drift": (replace(SOUND, timestamp_T=SOUND.timestamp_T * 1.1), "found 0.11 s (5 of 5 steps)"),
    "timestamps, nan": (
        replace(SOUND, timestamp_T=np.array([0, 0.1, np.nan, 0.3, 0.4, 0.5])),
        "step 2: expected a timestamp 0.1 s after the one before, found nan s (2 of 5 steps)",
    ),
    "instruction": (replace(SOUND, instruction="  "), "expected an instruction, found an empty text"),
    "black_view": (
        replace(SOUND, images={**SOUND.images, "wrist": FRAMES // 200}),
        "view wrist: expected a picture, found black in all 6 frames",
    ),
    "frozen_view": (
        replace(SOUND, images={**SOUND.images, "front": np.repeat(FRAMES[:1], 6, axis=0)}),
        "view front: expected a changing picture, found 6 equal frames",
    ),
}


@pytest.mark.parametrize("fault", EPISODE_FAULTS)
def test_a_faulty_episode_is_found_by_its_check_alone(fault):
    episode, message = EPISODE_FAULTS[fault]
    [finding] = findings(among_sound_ones(episode))
    assert (finding.check, finding.episode_id, finding.level) == (fault.split(",")[0], 7, "error")
    assert message in finding.message


def test_every_check_of_episodes_is_tried_with_a_fault():
    assert {name.split(",")[0] for name in EPISODE_FAULTS} == {check.name for check in EPISODE_CHECKS}


def test_sound_episodes_have_no_findings():
    assert findings(among_sound_ones(SOUND)) == []


def test_names_of_checks_are_distinct():
    names = [check.name for checks in (DATASET_CHECKS, EPISODE_CHECKS, SURVEY_CHECKS) for check in checks]
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


@pytest.mark.parametrize(
    ("schema", "check", "message"),
    [
        ({"fps": 0.0}, "schema", "expected a positive fps, found 0"),
        ({"action_names": ("x", "x")}, "schema", "expected distinct action names, found x more than once"),
        ({"state_names": ()}, "schema", "expected at least one state dimension, found none"),
        ({"views": {}}, "schema", "expected at least one view, found none"),
        ({"views": {"front": (0, 6)}}, "schema", "view front: expected a positive image size, found 0x6"),
    ],
)
def test_a_faulty_schema_is_found_before_any_episode_is_read(schema, check, message):
    unreadable = replace(SOUND, error="never read")
    assert findings(ArrayDataset([unreadable], **schema)) == [Finding(check, None, message, "error")]


def test_an_episode_without_steps_is_found():
    [finding] = findings(ArrayDataset([SOUND, replace(SOUND, length=0)], ids=[2, 4]))
    assert (finding.check, finding.message) == (
        "episode_list",
        "expected at least one step per episode, found none in 4",
    )


def test_an_episode_id_that_occurs_twice_is_found():
    [finding] = findings(ArrayDataset([SOUND, make_episode(seed=1)], ids=[2, 2]))
    assert (finding.check, finding.message) == ("episode_list", "expected distinct episode ids, found 2 more than once")


def test_a_data_file_that_the_manifest_does_not_list_is_found(tmp_path):
    class WithFiles(ArrayDataset):
        def files(self):
            return [tmp_path / name for name in ("a.parquet", "b.parquet")]

    [finding] = findings(WithFiles([SOUND]), listed=frozenset({(tmp_path / "a.parquet").as_posix()}))
    assert finding.check == "files"
    assert "b.parquet" in finding.message
    assert "a.parquet" not in finding.message


def test_a_constant_dimension_is_a_warning_with_its_value():
    episodes = [make_episode(seed=seed) for seed in range(3)]
    for episode in episodes:
        episode.state_TS[:, 1] = 0.5
    [finding] = findings(ArrayDataset(episodes))
    assert finding == Finding(
        "constant_dimension", None, "state s1 is always 0.5: normalisation maps it to 0", "warning"
    )


def test_a_dimension_that_is_constant_in_one_episode_only_is_fine():
    constant = make_episode(seed=1)
    constant.state_TS[:, 1] = 0.5
    assert findings(ArrayDataset([constant, make_episode(seed=2)])) == []


def test_a_saturated_action_is_a_warning_with_its_share():
    actions = np.linspace(-1, 0.5, 20, dtype=np.float32)[:, None].repeat(2, axis=1)
    actions[:8, 1] = 1.0
    [finding] = findings(ArrayDataset([make_episode(20, actions_TA=actions)]))
    assert (finding.check, finding.level) == ("action_saturation", "warning")
    assert finding.message == "action a1 is 1, the high end of its range, in 40% of the steps"


def test_a_gripper_that_is_only_ever_open_or_shut_is_not_saturated():
    actions = make_episode(20).actions_TA
    actions[:, 1] = np.sign(actions[:, 1])
    assert findings(ArrayDataset([make_episode(20, actions_TA=actions)])) == []


def test_a_recording_that_occurs_twice_is_a_warning_that_names_both():
    data = ArrayDataset([SOUND, make_episode(seed=1), replace(SOUND, instruction="another text")], ids=[4, 5, 9])
    [finding] = findings(data)
    assert (finding.check, finding.level) == ("duplicate_episode", "warning")
    assert finding.message == "episodes 4, 9 hold equal states and actions: they stay on one side of the split"


@given(
    values=hnp.arrays(np.float32, (12, 2), elements=st.integers(-2, 2).map(float)),
    cut=st.integers(1, 11),
)
def test_extremes_of_parts_are_those_of_the_whole(values, cut):
    extremes = Extremes.none(2)
    extremes.add(values[:cut])
    extremes.add(values[cut:])
    assert extremes.low.tolist() == values.min(axis=0).tolist()
    assert extremes.high.tolist() == values.max(axis=0).tolist()
    assert extremes.at_low.tolist() == (values == values.min(axis=0)).sum(axis=0).tolist()
    assert extremes.at_high.tolist() == (values == values.max(axis=0)).sum(axis=0).tolist()


def test_a_long_dataset_keeps_a_bounded_number_of_steps_for_the_plots():
    data = ArrayDataset([SOUND])
    assert Survey.empty(data.schema, total_steps=100_000).every == 1
    assert Survey.empty(data.schema, total_steps=100_001).every == 2
    assert Survey.empty(data.schema, total_steps=10**8).every == 1000
