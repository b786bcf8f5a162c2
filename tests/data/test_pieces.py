import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from splits import a_table

from vla.data.pieces import SHORTEST, UNKNOWN, Pieces
from vla.errors import DataError


def spans(pieces: Pieces) -> list[tuple[int, int]]:
    return [(int(start), int(start + length)) for start, length in zip(pieces.start_K, pieces.length_K, strict=True)]


def test_a_piece_is_a_block_between_two_places_where_reading_can_begin():
    pieces, episode = Pieces.of(a_table([100, 60], blocks=[[0, 40], [0]]))
    assert spans(pieces) == [(0, 40), (40, 100), (100, 160)]
    assert episode.tolist() == [0, 0, 1]


def test_short_blocks_are_joined_and_their_first_step_stays_a_place_to_begin():
    pieces, _ = Pieces.of(a_table([100], blocks=[list(range(0, 100, 10))]))
    # The first blocks at or after 0, 32, 64 and 96 begin at 0, 40, 70; 90 is the last.
    assert spans(pieces) == [(0, 40), (40, 70), (70, 100)]


def test_episodes_without_known_blocks_are_cut_evenly():
    table = a_table([2 * UNKNOWN + 3, 10, 8], blocks=[None, [0, 9], []])
    pieces, episode = Pieces.of(table)
    assert spans(pieces) == [
        (0, UNKNOWN),
        (UNKNOWN, 2 * UNKNOWN),
        (2 * UNKNOWN, 2 * UNKNOWN + 3),
        (2 * UNKNOWN + 3, 2 * UNKNOWN + 13),
        (2 * UNKNOWN + 13, 2 * UNKNOWN + 21),
    ]
    assert episode.tolist() == [0, 0, 0, 1, 2]


def test_a_table_made_without_files_is_cut_evenly():
    assert spans(Pieces.of(a_table([3, 4]))[0]) == [(0, 3), (3, 7)]


@pytest.mark.parametrize("blocks", [[0, 5], [1], [0, 7]])
def test_blocks_that_do_not_fit_their_episode_are_refused(blocks):
    with pytest.raises(DataError, match=r"row 1: expected blocks that begin at 0 and below its 5 steps, found one at"):
        Pieces.of(a_table([6, 5], blocks=[[0], blocks]))


def test_places_of_a_sequence_are_the_samples_of_its_pieces():
    pieces = Pieces.make(np.array([10, 50, 20]), np.array([3, 1, 2]))
    assert pieces.samples(np.arange(6)).tolist() == [10, 11, 12, 50, 20, 21]
    assert pieces.take(np.array([2, 0])).samples(np.array([4, 1])).tolist() == [12, 21]


def test_a_cut_shortens_the_pieces_at_its_ends():
    pieces = Pieces.make(np.array([10, 50, 20]), np.array([3, 1, 2]))
    assert spans(pieces.cut(1, 5)) == [(11, 13), (50, 51), (20, 21)]
    assert spans(pieces.cut(3, 4)) == [(50, 51)]
    assert pieces.cut(1, 2).num_samples == 1


def an_episode(length: int) -> st.SearchStrategy[tuple[int, list[int] | None]]:
    """A length, and the steps where reading can begin or None."""
    starts = st.sets(st.integers(1, length)).map(lambda later: [0, *sorted(later - {length})])
    return st.tuples(st.just(length), st.none() | starts)


EPISODES = st.lists(st.integers(1, 300).flatmap(an_episode), min_size=1, max_size=6)


@given(episodes=EPISODES)
def test_pieces_are_all_samples_in_order_and_begin_where_reading_can(episodes):
    lengths, blocks = (list(column) for column in zip(*episodes, strict=True))
    table = a_table(lengths, blocks=blocks)
    pieces, episode = Pieces.of(table)
    firsts = np.cumsum(lengths) - lengths
    assert pieces.samples(np.arange(sum(lengths))).tolist() == list(range(sum(lengths)))
    for (begin, end), row in zip(spans(pieces), episode, strict=True):
        assert firsts[row] <= begin < end <= firsts[row] + lengths[row]
        if blocks[row] is not None:
            assert begin - firsts[row] in blocks[row]
    for row, starts in enumerate(blocks):
        if starts is not None:
            assert (episode == row).sum() <= -(-lengths[row] // SHORTEST)
