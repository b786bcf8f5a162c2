"""Checks of a dataset as a whole, before its episodes are read and after."""

from dataclasses import replace

import numpy as np
import pytest
from builders import ArrayDataset, make_episode, make_sources
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from inspections import findings, inspected

from vla.data.checks import Finding
from vla.data.survey import Extremes, Survey
from vla.formats import Claims

SOUND = make_episode(seed=5)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"fps": 0.0}, "expected a positive fps, found 0"),
        ({"action_names": ("x", "x")}, "expected distinct action names, found x more than once"),
        ({"state_names": ()}, "expected at least one state dimension, found none"),
        ({"views": {}}, "expected at least one view, found none"),
        ({"views": {"front": (0, 6)}}, "view front: expected a positive image size, found 0x6"),
    ],
)
def test_a_faulty_schema_is_found_before_any_episode_is_read(schema, message):
    unreadable = replace(SOUND, error="never read")
    assert findings(ArrayDataset([unreadable], **schema)) == [Finding("schema", None, "", message, "error")]


def test_an_episode_without_steps_is_found():
    [finding] = findings(ArrayDataset([SOUND, replace(SOUND, length=0)], ids=[2, 4]))
    assert (finding.check, finding.message) == (
        "episode_list",
        "expected at least one step per episode, found none in 4",
    )


def test_an_episode_id_that_occurs_twice_is_found():
    [finding] = findings(ArrayDataset([SOUND, make_episode(seed=1)], ids=[2, 2]))
    assert (finding.check, finding.message) == ("episode_list", "expected distinct episode ids, found 2 more than once")


@pytest.mark.parametrize("setting", ["state_dim", "action_dim"])
def test_other_dimensions_than_the_policy_expects_are_found(setting):
    data = ArrayDataset([SOUND])
    assert findings(data, state_dim=3, action_dim=2) == []
    [finding] = findings(data, **{setting: 7})
    assert finding.check == "dimensions"
    assert finding.message.startswith(f"expected 7 {setting.split('_')[0]} dimensions (validate.{setting}), found ")


@pytest.mark.parametrize(
    ("claims", "message"),
    [
        (Claims(episodes=3), "expected 3 episodes by the metadata's own total, found 2 in the list of episodes"),
        (Claims(steps=12, episodes=1), "expected 1 episodes by"),
        (Claims(steps=13), "expected 13 steps by the metadata's own total, found 12 in the list of episodes"),
    ],
)
def test_totals_that_are_not_those_of_the_list_are_found(claims, message):
    data = ArrayDataset([SOUND, make_episode(seed=1)])
    data.claimed = claims
    [finding] = findings(data)
    assert (finding.check, finding.level) == ("totals", "error")
    assert finding.message.startswith(message)
    assert findings(data, skip=["totals"]) == []
    [finding] = findings(data, warn_only=["totals"])
    assert finding.level == "warning"


def test_true_totals_are_no_finding():
    data = ArrayDataset([SOUND, make_episode(seed=1)])
    data.claimed = Claims(episodes=2, steps=12)
    assert findings(data) == []


def test_episodes_that_the_selection_leaves_out_are_counted():
    sources = make_sources(ArrayDataset([SOUND, make_episode(seed=1)]), left_out={"with missing files": 94, "late": 1})
    [finding] = inspected(sources).findings
    assert (finding.check, finding.level) == ("selection", "warning")
    assert finding.message == "95 of 97 episodes are left out: 94 with missing files, 1 late"


def test_findings_in_a_mixture_name_the_dataset():
    main = ArrayDataset([SOUND, make_episode(seed=1)], name="main")
    other = ArrayDataset([replace(make_episode(seed=2), instruction=""), SOUND], ids=[4, 9], name="bridge")
    other.claimed = Claims(episodes=3)
    found = [str(finding) for finding in findings(main, other, warn_only=["totals"])]
    assert found[:2] == [
        "bridge: totals: expected 3 episodes by the metadata's own total, found 2 in the list of episodes",
        "bridge: episode 4: instruction: expected an instruction, found an empty text",
    ]
    [repeated] = found[2:]
    assert repeated.startswith("duplicate_episode: main: episode 0, bridge: episode 9 hold equal states and actions")


def test_the_copies_that_two_datasets_share_are_one_warning_with_their_number():
    episodes = [make_episode(seed=seed) for seed in range(5)]
    main = ArrayDataset([*episodes, episodes[4]], name="main")
    other = ArrayDataset(episodes[1:3], ids=[4, 9], name="bridge")
    between, within = (finding.message for finding in findings(main, other))
    assert between == (
        "main: episode 1, bridge: episode 4 hold equal states and actions, the first of 2 recordings that occur again "
        "there: they stay on one side of the split"
    )
    assert within == (
        "main: episode 4, main: episode 5 hold equal states and actions: they stay on one side of the split"
    )


def test_a_dataset_of_a_mixture_that_names_its_dimensions_otherwise_is_found():
    main = ArrayDataset([SOUND], name="main")
    other = ArrayDataset([make_episode(seed=2)], name="bridge", action_names=("a1", "a0"))
    [finding] = findings(main, other)
    assert (finding.check, finding.where, finding.level) == ("dimension_names", "bridge", "warning")
    assert finding.message == "expected the action names of main, found a1 for a0, a0 for a1"


def test_frames_are_compared_with_the_size_in_their_own_dataset():
    small = make_episode(seed=2)
    small = replace(small, images={view: frames[:, :2] for view, frames in small.images.items()})
    assert findings(ArrayDataset([SOUND], name="main"), ArrayDataset([small], name="bridge")) == []


def test_a_constant_dimension_is_a_warning_with_its_value():
    episodes = [make_episode(seed=seed) for seed in range(3)]
    for episode in episodes:
        episode.state_TS[:, 1] = 0.5
    [finding] = findings(ArrayDataset(episodes))
    message = "1 of 3 state dimensions never change, and normalisation maps them to 0: s1 (0.5)"
    assert finding == Finding("constant_dimension", None, "", message, "warning")


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
    assert finding.message == "episode 4, episode 9 hold equal states and actions: they stay on one side of the split"


def test_a_value_far_from_all_others_is_a_warning_that_says_where_it_is():
    episodes = [make_episode(100, seed=seed) for seed in range(3)]
    for episode in episodes:
        np.clip(episode.state_TS, -1, 1, out=episode.state_TS)
    episodes[1].state_TS[40, 2] = -21.5
    [finding] = findings(ArrayDataset(episodes, ids=[2, 4, 6]))
    assert (finding.check, finding.level) == ("outlier", "warning")
    assert finding.message.startswith("state s2 is -21.5 in episode 4, step 40, while 98 % of it lie from -1 to 1: ")


def test_a_dimension_that_hardly_ever_changes_is_found_before_normalisation_blows_it_up():
    episode = make_episode(300)
    episode.actions_TA[:, 0] *= 1e-4
    episode.actions_TA[7, 0] = 1
    [finding] = findings(ArrayDataset([episode]))
    assert finding.message.startswith("action a0 is 1 in episode 0, step 7, while 98 % of it lie from -0.0002")


@given(
    values=hnp.arrays(np.float32, (12, 2), elements=st.integers(-2, 2).map(float)),
    cut=st.integers(1, 11),
)
def test_extremes_of_parts_are_those_of_the_whole(values, cut):
    extremes = Extremes.none(2)
    extremes.add(values[:cut], episode_id=7)
    extremes.add(values[cut:], episode_id=9)
    assert extremes.low.tolist() == values.min(axis=0).tolist()
    assert extremes.high.tolist() == values.max(axis=0).tolist()
    assert extremes.at_low.tolist() == (values == values.min(axis=0)).sum(axis=0).tolist()
    assert extremes.at_high.tolist() == (values == values.max(axis=0)).sum(axis=0).tolist()
    for places, rows in ((extremes.low_at, values.argmin(axis=0)), (extremes.high_at, values.argmax(axis=0))):
        assert places.tolist() == [[7, row] if row < cut else [9, row - cut] for row in rows.tolist()]


def test_a_long_dataset_keeps_a_bounded_number_of_steps_for_the_plots():
    schema = ArrayDataset([SOUND]).schema
    assert Survey.empty(schema, total_steps=100_000).every == 1
    assert Survey.empty(schema, total_steps=100_001).every == 2
    assert Survey.empty(schema, total_steps=10**8).every == 1000


def test_the_steps_for_the_plots_are_evenly_spaced_over_short_episodes(monkeypatch):
    monkeypatch.setattr("vla.data.survey.PLOTTED_STEPS", 6)
    episodes = [make_episode(length, seed=length) for length in (2, 3, 1, 4, 6)]
    states = np.concatenate([episode.state_TS for episode in episodes])
    survey = inspected(make_sources(ArrayDataset(episodes))).survey
    assert survey.every == 3
    assert np.array_equal(survey.state.sample_ND, states[::3])


@pytest.mark.parametrize("contents", ["", "a", "ab", "aa", "abab", "abcabca"])
def test_repeated_contents_are_grouped(contents):
    survey = Survey.empty(ArrayDataset([SOUND]).schema, total_steps=1)
    survey.contents += list(contents)
    survey.episode_ids.extend(range(len(contents)))
    expected = [[i for i, c in enumerate(contents) if c == letter] for letter in dict.fromkeys(contents)]
    assert list(survey.repeated()) == [group for group in expected if len(group) > 1]


def test_pictures_of_large_cameras_are_kept_small():
    images = {"front": np.random.default_rng(0).integers(0, 256, (3, 500, 700, 3), dtype=np.uint8)}
    survey = inspected(make_sources(ArrayDataset([make_episode(3, images=images)]))).survey
    [views] = survey.pictures.values()
    assert [picture.shape for picture in views["front"]] == [(167, 234, 3)] * 2
    assert np.array_equal(views["front"][1], images["front"][2, ::3, ::3])
