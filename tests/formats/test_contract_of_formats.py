"""Every file in vla/formats keeps the contract of vla.formats."""

import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.formats.miniatures import MINIATURES, Episode, Miniature
from vla import registry
from vla.columns import Columns, Vector
from vla.errors import DataError
from vla.folder import FileStamp, Folder
from vla.formats import EPISODES, Dataset
from vla.terms import Tasks


@dataclass(frozen=True)
class Written:
    """A miniature on disk."""

    miniature: Miniature
    root: Path
    episodes: list[Episode]

    def open(self, folder: Folder | None = None, **changes: object) -> Dataset:
        columns = self.miniature.columns.model_copy(update=changes)
        module = registry.find("formats", self.miniature.format)
        dataset: Dataset = module.open_dataset(folder or Folder(self.root), columns, name="miniature")
        return dataset

    @property
    def files(self) -> set[Path]:
        return {path.relative_to(self.root) for path in self.root.rglob("*") if path.is_file()}


@pytest.fixture(params=MINIATURES)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Written:
    miniature = MINIATURES[request.param]
    return Written(miniature, tmp_path, miniature(tmp_path))


@pytest.fixture
def opened(written: Written) -> Dataset:
    return written.open()


def test_every_format_has_a_miniature() -> None:
    assert {each.format for each in MINIATURES.values()} == set(registry.names("formats"))


def test_the_schema_describes_what_was_written(written: Written, opened: Dataset) -> None:
    episode = written.episodes[0]
    assert opened.schema.name == "miniature"
    assert opened.schema.format == written.miniature.format
    assert opened.schema.fps > 0
    assert opened.schema.views == {view: images.shape[1:3] for view, images in episode.images.items()}
    assert opened.schema.state_dim == episode.state.shape[1]
    assert opened.schema.action_dim == episode.actions.shape[1]
    state, sizes = Vector.parse(written.miniature.columns.state), opened.schema.state_columns
    assert set(sizes) == set(state.columns)
    assert len(state.names(lambda column: [""] * sizes[column])) == opened.schema.state_dim


def test_the_episode_table_lists_number_length_and_instruction(written: Written, opened: Dataset) -> None:
    table = opened.episodes()
    assert table.schema.equals(EPISODES)
    assert table["episode_id"].to_pylist() == [episode.number for episode in written.episodes]
    assert table["length"].to_pylist() == [len(episode) for episode in written.episodes]
    assert table["instruction"].to_pylist() == [episode.instruction for episode in written.episodes]
    supervised = table["supervised"].drop_null()
    assert pc.all(pc.less_equal(supervised, pc.max(table["length"]))).as_py() in (True, None)


def test_steps_and_images_come_back_exactly(written: Written, opened: Dataset) -> None:
    for episode in written.episodes:
        steps = opened.steps(episode.number)
        np.testing.assert_array_equal(steps.state_TS, episode.state)
        np.testing.assert_array_equal(steps.actions_TA, episode.actions)
        np.testing.assert_allclose(steps.timestamp_T, np.arange(len(episode)) / opened.schema.fps, atol=1e-6)
        assert (steps.timestamp_T.dtype, steps.state_TS.dtype) == (np.float64, np.float32)
        for view, images in episode.images.items():
            read = opened.images(episode.number, view)
            assert read.dtype == np.uint8
            np.testing.assert_array_equal(read, images)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_images_of_any_steps_are_those_of_the_whole_episode(written: Written, opened: Dataset, data: st.DataObject):
    episode = data.draw(st.sampled_from(written.episodes))
    steps = np.array(data.draw(st.lists(st.integers(0, len(episode) - 1), min_size=1, max_size=6)))
    for view, images in episode.images.items():
        np.testing.assert_array_equal(opened.images(episode.number, view, steps), images[steps])


def test_order_of_reading_does_not_matter(written: Written, opened: Dataset) -> None:
    for episode in [*written.episodes, *reversed(written.episodes)]:
        np.testing.assert_array_equal(opened.images(episode.number, "wrist"), episode.images["wrist"])


def test_reading_can_begin_at_the_block_starts(written: Written, opened: Dataset) -> None:
    for episode in written.episodes:
        starts = opened.block_starts(episode.number)
        assert starts.dtype == np.int64
        assert starts[0] == 0
        assert (np.diff(starts) > 0).all()
        assert starts[-1] < len(episode)


def test_recorded_ranges_are_those_of_the_numbers(written: Written, opened: Dataset) -> None:
    for episode in written.episodes:
        ranges = opened.recorded_ranges(episode.number)
        for key, values in (("state", episode.state), ("actions", episode.actions)):
            if key in ranges:
                np.testing.assert_allclose(ranges[key][0], values.min(axis=0), rtol=1e-6)
                np.testing.assert_allclose(ranges[key][1], values.max(axis=0), rtol=1e-6)


def test_the_frames_of_an_own_video_file_are_counted(written: Written, opened: Dataset) -> None:
    for episode in written.episodes:
        assert {opened.frame_count(episode.number, view) for view in episode.images} <= {None, len(episode)}


def test_rows_and_metadata_name_the_same_tasks(written: Written, opened: Dataset) -> None:
    for episode in written.episodes:
        said = opened.tasks(episode.number)
        assert said in (None, Tasks(frozenset({episode.instruction}), frozenset({episode.instruction})))


def test_totals_are_those_of_the_dataset(written: Written, opened: Dataset) -> None:
    claims = opened.claims()
    assert claims.episodes in (None, len(written.episodes))
    assert claims.steps in (None, sum(map(len, written.episodes)))


def test_all_files_are_named_relative_to_the_root(written: Written, opened: Dataset) -> None:
    described = opened.metadata_files()
    of_episodes = {path for episode in written.episodes for path in opened.episode_files(episode.number)}
    assert described == sorted(described)
    assert {*described, *of_episodes} <= written.files
    if written.miniature.has_metadata:
        assert not of_episodes.intersection(described)
    folders = [
        folder
        for pattern in opened.data_folders()
        for folder in (written.root.glob(pattern) if pattern else [written.root])
    ]
    below = {path for folder in folders for path in folder.rglob("*") if path.is_file()}
    assert of_episodes == {path.relative_to(written.root) for path in below}


def test_a_dataset_is_recognised_by_its_own_format_alone(written: Written) -> None:
    recognised = [name for name in registry.names("formats") if registry.find("formats", name).recognises(written.root)]
    assert recognised == [written.miniature.format]


def test_the_suggested_columns_can_be_read(written: Written) -> None:
    columns: Columns = registry.find("formats", written.miniature.format).suggest_columns(written.root)
    dataset = written.open(**dict(columns))
    episode = written.episodes[-1]
    assert len(dataset.steps(episode.number)) == len(episode)
    assert all(len(dataset.images(episode.number, view)) == len(episode) for view in dataset.schema.views)
    assert dataset.episodes()["instruction"].to_pylist() == [each.instruction for each in written.episodes]


@pytest.mark.parametrize("name", registry.names("formats"))
@pytest.mark.parametrize("junk", ["nothing", "file", "text", "bytes", "list", "directory", "nested"])
def test_junk_is_not_recognised(tmp_path: Path, name: str, junk: str) -> None:
    root = tmp_path / "dataset"
    written: dict[str, bytes] = {"text": b"no json", "bytes": b"\xff\xfe", "list": b"[1]", "nested": b"[" * 100_000}
    if junk == "file":
        root.write_bytes(b"")
    elif junk == "directory":
        (root / "meta/info.json").mkdir(parents=True)
        (root / "a.parquet").mkdir()
    elif junk != "nothing":
        (root / "meta").mkdir(parents=True)
        (root / "meta/info.json").write_bytes(written[junk])
        (root / "junk.parquet").write_bytes(written[junk])
    assert not registry.find("formats", name).recognises(root)


def test_a_dataset_can_be_sent_to_another_process(written: Written, opened: Dataset) -> None:
    first = written.episodes[0].number
    opened.images(first, "front")
    copy: Dataset = pickle.loads(pickle.dumps(opened))
    np.testing.assert_array_equal(copy.images(first, "front"), opened.images(first, "front"))


def test_files_are_compared_with_the_manifest(written: Written) -> None:
    listed = {path.as_posix(): FileStamp((written.root / path).stat().st_size, None) for path in written.files}
    episode = written.episodes[0]
    dataset = written.open(Folder(written.root, listed))
    np.testing.assert_array_equal(dataset.steps(episode.number).state_TS, episode.state)
    data = dataset.episode_files(episode.number)[0]
    listed[data.as_posix()] = FileStamp(1, None)
    place = rf"pisode {episode.number}: .*" if written.miniature.has_metadata else ""
    with pytest.raises(DataError, match=rf"{place}{data.name}: expected 1 bytes as at download"):
        written.open(Folder(written.root, listed)).steps(episode.number)


def test_an_episode_that_does_not_exist_is_an_error(opened: Dataset) -> None:
    for read in (opened.steps, opened.block_starts, opened.episode_files, partial(opened.images, view="front")):
        with pytest.raises(DataError, match="found 777"):
            read(777)


@pytest.mark.parametrize("wrong", ["state", "actions", "views"])
def test_a_missing_column_is_named_together_with_what_there_is(written: Written, wrong: str) -> None:
    value = {"front": "no.such.column"} if wrong == "views" else "no.such.column"
    with pytest.raises(DataError, match=r"'no\.such\.column'.*found action.*state"):
        written.open(**{wrong: value})


def damages(written: Written) -> Iterator[tuple[Path, Callable[[Dataset], object], int]]:
    """Each file of the first episode, and what reads it."""
    episode = written.episodes[0]
    dataset = written.open()
    for path in dataset.episode_files(episode.number):
        views = [view for view, column in written.miniature.columns.views.items() if column in path.parts]
        depths = [view for view, column in written.miniature.columns.depth.items() if column in path.parts]
        if views:
            yield path, lambda dataset, view=views[0]: dataset.images(episode.number, view), episode.number
        elif depths:
            yield path, lambda dataset, view=depths[0]: dataset.depth(episode.number, view), episode.number
        else:
            yield path, lambda dataset: dataset.steps(episode.number), episode.number


def test_a_truncated_file_is_an_error_that_names_it_and_the_episode(written: Written) -> None:
    for path, read, number in list(damages(written)):
        whole = (written.root / path).read_bytes()
        (written.root / path).write_bytes(whole[: len(whole) // 2])
        if not written.miniature.has_metadata:
            with pytest.raises(DataError, match=path.name):
                written.open()
            continue
        dataset = written.open()
        with pytest.raises(DataError, match=rf"(?i)episode {number}.*{path.name}"):
            read(dataset)


def test_a_missing_file_is_an_error_that_names_it_and_the_episode(written: Written) -> None:
    if not written.miniature.has_metadata:
        pytest.skip("only the manifest knows which files there should be")
    for path, read, number in list(damages(written)):
        (written.root / path).unlink()
        dataset = written.open()
        with pytest.raises(DataError, match=rf"(?i)episode {number}.*{path.name}.*found none"):
            read(dataset)
