import dataclasses

import numpy as np
import pytest
import torch
from batches import INTERFACES, SETTINGS
from builders import ArrayDataset, make_episode
from bundles import a_bundle
from splits import a_table

from vla import keyed
from vla.data.episodes import FOREVER, EpisodeTable
from vla.data.frames import Frames
from vla.data.held_out import HeldOut
from vla.data.loader import observe
from vla.data.samples import Samples
from vla.delta import Delta
from vla.errors import DataError
from vla.evaluation import playback
from vla.evaluation.evaluate import Errors, check_fit, spread_over_tasks
from vla.normalization import Statistics

LENGTHS = (3, 6, 1, 4)
TASKS = ("open the drawer", "press the button", "open the drawer", "open the drawer")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return a_bundle(
        tmp_path_factory.mktemp("bundle") / "policy", state_names=("s0", "s1", "s2"), action_names=("a0", "a1")
    )


@pytest.fixture(scope="module")
def dataset():
    return ArrayDataset(
        [make_episode(n, seed=n, instruction=task) for n, task in zip(LENGTHS, TASKS, strict=True)], ids=[7, 8, 9, 12]
    )


def the_table(lengths=LENGTHS) -> EpisodeTable:
    return a_table(lengths, ids=[7, 8, 9, 12], instructions=TASKS)


def play(bundle, dataset, *, side_by_side, seed=0):
    played = playback.play(
        bundle, dataset=dataset, table=the_table(), side_by_side=side_by_side, num_steps=2, seed=seed
    )
    return {episode.episode_id: (episode, chunks) for episode, chunks in played}


def test_every_step_of_every_episode_gets_one_chunk(bundle, dataset):
    played = play(bundle, dataset, side_by_side=4)
    assert {number: chunks.shape for number, (_, chunks) in played.items()} == {
        7: (3, 4, 2), 8: (6, 4, 2), 9: (1, 4, 2), 12: (4, 4, 2),
    }  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_a_policy_sees_at_each_step_what_training_would_show_it(dataset, tmp_path, name):
    """The same steps of the window, at the policy's stride, the same pixels, state and text."""
    image_size = INTERFACES[name].image_size if name in INTERFACES else (16, 32)
    bundle = a_bundle(
        tmp_path / name,
        state_names=("s0", "s1", "s2"),
        action_names=("a0", "a1"),
        image_size=image_size,
        max_tokens=40,
        policy=name,
        settings=SETTINGS[name],
    )
    spec, processor, table = bundle.spec, bundle.processor, the_table()
    samples = Samples.make(table, spec, processor, supervise_padded=False)
    sample_B, shape = np.arange(len(samples)), (spec.action_horizon, spec.action_dim)
    held = HeldOut.read(samples, sample_B, dataset=dataset, frames=Frames.decode(samples, dataset, sample_B))
    episode_B, step_B = samples.windows.locate(sample_B)
    keys = [(int(table.uid_E[episode]), int(step)) for episode, step in zip(episode_B, step_B, strict=True)]
    noise = torch.from_numpy(keyed.normals(0, "evaluation", keys, shape=shape))
    memory = bundle.policy.initial_memory(len(noise), noise.device)
    chunk, _ = bundle.policy.act(observe(samples, sample_B, held.contents(sample_B)), memory, noise, 2)
    state_BS = np.concatenate([dataset.steps(number).state_TS for number in table.episode_id_E.tolist()])
    expected = processor.restore_actions(chunk[..., : spec.real_action_dim].numpy(), state_BS)
    played = play(bundle, dataset, side_by_side=2)
    found = np.concatenate([played[number][1] for number in table.episode_id_E.tolist()])
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("side_by_side", [1, 2, 3])
def test_predictions_do_not_depend_on_the_batch_size(bundle, dataset, side_by_side):
    reference = play(bundle, dataset, side_by_side=4)
    for number, (_, chunks) in play(bundle, dataset, side_by_side=side_by_side).items():
        np.testing.assert_allclose(chunks, reference[number][1], atol=2e-5)


def test_another_seed_gives_other_predictions(bundle, dataset):
    first, other = (play(bundle, dataset, side_by_side=4, seed=seed)[7][1] for seed in (0, 1))
    assert np.abs(first - other).max() > 0.01


def test_an_episode_with_too_few_frames_is_refused(bundle, dataset):
    with pytest.raises(DataError, match="episode 7: expected 5 rows, found 3"):
        playback.read_episode(bundle, dataset=dataset, table=the_table((5, 6, 1, 4)), row=0)


def test_the_errors_equal_a_plain_loop_over_all_real_targets(bundle, dataset):
    errors, mean = Errors(bundle), bundle.norm_stats.actions.mean
    squares, absolutes, reference, held = [], [], [], {}
    for episode, chunks in play(bundle, dataset, side_by_side=2).values():
        errors.add(episode, chunks)
        actions = episode.steps.actions_TA
        for t in range(len(actions)):
            for h in range(4):
                if t + h < len(actions):
                    for a in range(2):
                        error = float(chunks[t, h, a]) - float(actions[t + h, a])
                        squares.append(error**2)
                        absolutes.append(abs(error))
                        reference.append(abs(mean[a] - float(actions[t + h, a])))
                        held.setdefault(episode.instruction, []).append(abs(error))
    summary = errors.summary()
    assert summary["mse"] == pytest.approx(np.mean(squares), rel=1e-5)
    assert summary["mae"] == pytest.approx(np.mean(absolutes), rel=1e-5)
    assert summary["baseline_mae"] == pytest.approx(np.mean(reference), rel=1e-5)
    # Both dimensions have the standard deviation 0.5, so the scale cancels in the ratio.
    assert summary["error_ratio"] == pytest.approx(np.mean(absolutes) / np.mean(reference), rel=1e-5)
    assert summary["mae_normalised"] == pytest.approx(np.mean(absolutes) / 0.5, rel=1e-5)
    assert summary["mse_normalised"] == pytest.approx(np.mean(squares) / 0.25, rel=1e-5)
    for task, values in held.items():
        assert summary["per_task"][task]["mae"] == pytest.approx(np.mean(values), rel=1e-5)
    assert {task: row["steps"] for task, row in summary["per_task"].items()} == {
        "open the drawer": 8, "press the button": 6,
    }  # fmt: skip


def test_no_error_is_counted_after_a_terminal_step(bundle, dataset):
    table = dataclasses.replace(the_table(), supervised_E=np.array([FOREVER, 2, 1, 4]))
    (_, _), (episode, _), *_ = playback.play(bundle, dataset=dataset, table=table, side_by_side=1, num_steps=2, seed=0)
    assert (episode.episode_id, episode.supervised) == (8, 2)
    errors = Errors(bundle)
    errors.add(episode, np.zeros((6, 4, 2), np.float32))
    # Of steps 0 and 1 alone: the second stands in the chunks of both.
    right = episode.steps.actions_TA[[0, 1, 1]]
    assert errors.summary()["mae"] == pytest.approx(np.abs(right).mean(), rel=1e-6)
    assert errors.summary()["per_task"]["press the button"]["steps"] == 2


def test_the_mean_action_and_the_scale_are_those_of_the_actions_as_recorded(bundle, dataset):
    recorded = Statistics(mean=np.array([2.0, 3.0]), std=np.array([4.0, 1e-9]))
    stats = dataclasses.replace(bundle.norm_stats, recorded_actions=recorded)
    errors = Errors(dataclasses.replace(bundle, norm_stats=stats))
    played = list(play(bundle, dataset, side_by_side=4).values())
    for episode, chunks in played:
        errors.add(episode, np.zeros_like(chunks))
    # Each recorded action is the target of as many chunks as there are steps up to 3 before it.
    actions = np.concatenate(
        [np.repeat(r.steps.actions_TA, np.minimum(np.arange(len(r.steps)) + 1, 4), axis=0) for r, _ in played]
    )
    summary = errors.summary()
    assert summary["baseline_mae"] == pytest.approx(np.abs(actions - [2, 3]).mean(), rel=1e-5)
    # The second dimension does not move by these statistics, and is left out.
    assert summary["mae_normalised"] == pytest.approx(np.abs(actions[:, 0]).mean() / 4, rel=1e-5)


def test_delta_actions_without_statistics_of_the_recorded_ones_are_refused(bundle):
    processor = dataclasses.replace(bundle.processor, delta=Delta(np.array([0]), np.array([0])))
    with pytest.raises(DataError, match="expected recorded_actions in the norm stats"):
        Errors(dataclasses.replace(bundle, processor=processor))


def test_a_perfect_prediction_has_no_error(bundle, dataset):
    errors = Errors(bundle)
    for episode, chunks in play(bundle, dataset, side_by_side=4).values():
        actions = episode.steps.actions_TA
        index = np.minimum(np.arange(len(actions))[:, None] + np.arange(4), len(actions) - 1)
        assert chunks.shape == actions[index].shape
        errors.add(episode, actions[index])
    assert errors.summary()["mse"] == errors.summary()["error_ratio"] == 0


def test_a_dataset_of_another_robot_is_refused(bundle, dataset):
    check_fit(bundle, dataset.schema, where="data")
    other = ArrayDataset([make_episode()], action_names=("a0", "gripper"))
    with pytest.raises(DataError, match=r"data: expected the action dimensions .*'a1'.*found .*'gripper'"):
        check_fit(bundle, other.schema, where="data")
    with pytest.raises(DataError, match="frames per second"):
        check_fit(bundle, ArrayDataset([make_episode()], fps=20.0).schema, where="data")
    with pytest.raises(DataError, match="found no wrist"):
        check_fit(bundle, ArrayDataset([make_episode()], views={"front": (4, 6)}).schema, where="data")


def test_plotted_episodes_are_spread_over_the_tasks():
    assert spread_over_tasks(the_table(), 2) == {0, 1}
    assert spread_over_tasks(the_table(), 3) == {0, 1, 2}
    assert spread_over_tasks(the_table(), 99) == {0, 1, 2, 3}
