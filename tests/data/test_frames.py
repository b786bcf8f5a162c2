import numpy as np
import pytest
from builders import ArrayDataset, make_episode
from splits import LENGTHS, a_dataset, a_processor, a_table, some_samples

from vla.data.frames import AT_ONCE, Frames
from vla.errors import ConfigError, DataError


def open_frames(folder, dataset, samples=None, **changes) -> Frames:
    return Frames.open(
        folder, samples or some_samples(), dataset, **{"identity": "one", "limit_bytes": 10**9, **changes}
    )


def seen(dataset, episode: int) -> np.ndarray:
    return a_processor().images({view: dataset.images(episode, view) for view in ("front", "wrist")})


def all_of(frames: Frames, steps: list[int]) -> np.ndarray:
    return frames.take(frames.rows(np.array([steps])))[0]


def test_frames_are_what_the_policy_sees_of_every_step(tmp_path):
    dataset = a_dataset()
    frames = open_frames(tmp_path, dataset)
    expected = np.concatenate([seen(dataset, episode) for episode in range(3)])
    np.testing.assert_array_equal(all_of(frames, list(range(16))), expected)
    assert expected.shape == (16, 2, 3, 8, 16)


def test_frames_are_decoded_once_and_shared(tmp_path, monkeypatch):
    dataset = a_dataset()
    first = open_frames(tmp_path, dataset)
    monkeypatch.setattr(dataset, "images", None)
    again = open_frames(tmp_path, dataset)
    np.testing.assert_array_equal(first.stored_NVYXC, again.stored_NVYXC)


def test_a_few_steps_are_decoded_alone(tmp_path):
    class Counting(ArrayDataset):
        asked = 0

        def images(self, episode_id, view, steps_N=None):
            found = super().images(episode_id, view, steps_N)
            type(self).asked += len(found)
            return found

    dataset = Counting([make_episode(n, seed=row) for row, n in enumerate(LENGTHS)])
    wanted = np.array([1, 4, 5, 15])
    for frames in (open_frames(tmp_path, dataset, step_N=wanted), Frames.decode(some_samples(), dataset, wanted)):
        assert len(frames.stored_NVYXC) == 4
        np.testing.assert_array_equal(all_of(frames, [15, 1]), [seen(a_dataset(), 2)[3], seen(a_dataset(), 0)[1]])
    assert Counting.asked == 2 * 2 * 4


def test_other_steps_of_the_same_split_have_their_own_file(tmp_path):
    dataset = a_dataset()
    for wanted in (np.array([1, 2]), np.array([1, 3])):
        frames = open_frames(tmp_path, dataset, step_N=wanted)
        np.testing.assert_array_equal(all_of(frames, [int(wanted[1])])[0], seen(dataset, 0)[wanted[1]])


def test_a_long_episode_is_decoded_in_parts(tmp_path):
    class Bounded(ArrayDataset):
        def images(self, episode_id, view, steps_N=None):
            found = super().images(episode_id, view, steps_N)
            assert len(found) <= AT_ONCE
            return found

    lengths = [AT_ONCE + 10, 3]
    dataset = Bounded([make_episode(n, seed=row) for row, n in enumerate(lengths)])
    frames = open_frames(tmp_path, dataset, some_samples(a_table(lengths)))
    last = ArrayDataset([make_episode(lengths[0], seed=0)]).images(0, "front")[-1:]
    expected = a_processor().images({"front": last, "wrist": last})[0, 0]
    np.testing.assert_array_equal(all_of(frames, [AT_ONCE + 9])[0, 0], expected)


def test_frames_of_changed_data_are_decoded_again(tmp_path):
    open_frames(tmp_path, a_dataset())
    others = a_dataset(seed=9)
    np.testing.assert_array_equal(all_of(open_frames(tmp_path, others, identity="two"), [0])[0], seen(others, 0)[0])


def test_frames_beyond_the_limit_are_refused_with_both_numbers(tmp_path):
    with pytest.raises(ConfigError, match=r"execution.cache_bytes: expected room for 12,288 bytes.* found 1,000"):
        open_frames(tmp_path, a_dataset(), limit_bytes=1000)


def test_the_oldest_frames_make_room(tmp_path):
    for name in ("one", "two", "three"):
        open_frames(tmp_path, a_dataset(), identity=name, limit_bytes=2 * 12_288)
    assert len(list(tmp_path.glob("*.u8"))) == 2


def test_a_failed_decoding_leaves_no_file_behind(tmp_path):
    episodes = [make_episode(n, seed=row) for row, n in enumerate(LENGTHS)]
    broken = make_episode(4, image_errors={"wrist": "episode 2: damaged"})
    with pytest.raises(DataError, match="episode 2: damaged"):
        open_frames(tmp_path, ArrayDataset([*episodes[:2], broken]))
    assert [item.name for item in tmp_path.iterdir()] == ["lock"]


def test_a_reader_that_returns_too_few_frames_is_refused(tmp_path):
    episodes = [make_episode(n, seed=row) for row, n in enumerate((5, 6, 4))]
    with pytest.raises(DataError, match=r"episode 1: expected 7 frames, found 6"):
        open_frames(tmp_path, ArrayDataset(episodes))
