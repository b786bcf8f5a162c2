import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from splits import a_table

from vla import keyed
from vla.data.order import BlocksOrder, FullOrder, lanes_of, own_epochs, presented
from vla.errors import ConfigError


def epoch_of(order, number: int) -> list[int]:
    first = number * order.steps_per_epoch
    return np.concatenate([order.samples(first + step) for step in range(order.steps_per_epoch)]).tolist()


def blocks_order(lengths=(40, 300, 90, 64), *, batch_size=16, buffer_steps=8, seed=0, blocks=None, **changes):
    table = a_table(lengths, blocks=blocks, **{name: changes.pop(name) for name in ("sources",) if name in changes})
    return BlocksOrder(table, seed=seed, batch_size=batch_size, buffer_steps=buffer_steps, **changes)


def test_the_full_order_is_a_permutation_per_epoch():
    order = FullOrder(a_table(), seed=0, batch_size=5)
    assert order.steps_per_epoch == 3
    assert epoch_of(order, 1) == keyed.permutation(0, "order", 1, count=16)[:15].tolist()
    assert epoch_of(order, 0) != epoch_of(order, 1)


@pytest.mark.parametrize(
    ("batch_size", "lanes"), [(64, 64), (256, 64), (96, 48), (8, 8), (1, 1), (100, 50), (67, 67), (134, 134), (48, 48)]
)
def test_lanes_divide_the_batch_and_are_many_enough_for_it_to_be_diverse(batch_size, lanes):
    assert lanes_of(batch_size) == lanes


@settings(max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 400), min_size=1, max_size=8),
    batch_size=st.integers(1, 80),
    buffer_steps=st.integers(1, 60),
    epoch=st.integers(0, 3),
)
def test_an_epoch_in_blocks_presents_every_sample_at_most_once(lengths, batch_size, buffer_steps, epoch):
    if sum(lengths) < batch_size:
        return
    order = blocks_order(lengths, batch_size=batch_size, buffer_steps=buffer_steps)
    seen = epoch_of(order, epoch)
    assert len(seen) == sum(lengths) // batch_size * batch_size
    assert len(set(seen)) == len(seen)
    assert set(seen) <= set(range(sum(lengths)))


def test_epochs_and_seeds_in_blocks_differ():
    order = blocks_order()
    assert epoch_of(order, 0) != epoch_of(order, 1)
    assert epoch_of(order, 0) != epoch_of(blocks_order(seed=1), 0)


def test_a_step_is_the_same_whatever_was_asked_before():
    order = blocks_order()
    whole = epoch_of(order, 0)
    for step in (20, 3, 29, 0):
        assert blocks_order().samples(step).tolist() == whole[step * 16 : (step + 1) * 16]


def test_parts_of_a_batch_are_consecutive_places_of_groups_that_are_read_once():
    order = blocks_order(batch_size=128, buffer_steps=8)
    assert (order.lanes, order.per_lane, order.group_steps) == (64, 2, 4)
    seen: dict[tuple[int, int, int], list[int]] = {}
    for step in range(order.steps_per_epoch):
        for part in order.parts(step, 0, 128):
            seen.setdefault(part.group, []).extend(range(part.begin, part.end))
    for key, places in seen.items():
        assert places == list(range(len(order.group(key))))


@pytest.mark.parametrize("cuts", [[0, 32], [0, 16, 32], [0, 3, 7, 8, 31, 32]])
def test_a_batch_is_the_same_however_it_is_cut(cuts):
    order = blocks_order(batch_size=32, buffer_steps=12)
    for step in range(order.steps_per_epoch):
        parts = [part for a, b in itertools.pairwise(cuts) for part in order.parts(step, a, b)]
        found = np.concatenate([order.group(part.group)[part.begin : part.end] for part in parts])
        assert found.tolist() == order.samples(step).tolist()


@pytest.mark.parametrize("workers", [2, 4, 8, 16])
def test_every_lane_belongs_to_one_worker_where_workers_divide_lanes(workers):
    order = blocks_order(batch_size=64)
    size = 64 // workers
    lanes = [
        {part.group[1] for step in range(5) for part in order.parts(step, rank * size, (rank + 1) * size)}
        for rank in range(workers)
    ]
    assert sum(len(found) for found in lanes) == len(set().union(*lanes)) == 64


def test_lanes_begin_new_groups_in_turn():
    order = blocks_order([6400], batch_size=16, buffer_steps=16)
    begins = [sum(part.begin == 0 for part in order.parts(step, 0, 16)) for step in range(1, order.steps_per_epoch)]
    assert set(begins) == {1}


@pytest.mark.parametrize("ahead", [1, 3])
def test_upcoming_groups_are_those_of_later_steps(ahead):
    order = blocks_order(batch_size=16, buffer_steps=8)
    for step in range(order.steps_per_epoch - ahead):
        now, then = ([part.group for part in order.parts(at, 3, 13)] for at in (step, step + ahead))
        assert order.upcoming(step, 3, 13, ahead=ahead) == [key for key in then if key not in now]
    assert order.upcoming(order.steps_per_epoch - 1, 3, 13, ahead=ahead) == []


def test_a_group_comes_from_few_pieces_and_is_shuffled():
    order = blocks_order([6400], batch_size=16, buffer_steps=64)
    for number in range(3):
        group = order.group((0, 0, number))
        # Pieces of 256 samples: 64 places in a row meet at most two of them.
        assert len({int(sample) // 256 for sample in group}) <= 2
        assert group.tolist() != sorted(group.tolist())


def test_a_batch_size_beyond_the_samples_is_refused():
    with pytest.raises(ConfigError, match=r"train\.batch_size: expected at most the 16 samples"):
        FullOrder(a_table(), seed=0, batch_size=17)
    with pytest.raises(ConfigError, match=r"train\.batch_size: expected at most the 16 samples"):
        BlocksOrder(a_table(), seed=0, batch_size=17, buffer_steps=4)


SOURCES = ["near", "near", "far", "near"]
"""Of episodes of 40, 300, 90 and 64 steps: 404 near, 90 far."""


def both_orders(weights):
    table = a_table([40, 300, 90, 64], sources=SOURCES)
    yield FullOrder(table, seed=0, batch_size=19, weights=weights)
    yield BlocksOrder(table, seed=0, batch_size=19, buffer_steps=8, weights=weights)


def test_weights_are_shares_of_the_presentations_and_each_source_goes_on_through_its_samples():
    near = np.array([True] * 340 + [False] * 90 + [True] * 64)
    for order in both_orders({"near": 1.0, "far": 3.0}):
        # 494 samples: 26 whole batches of 19. A quarter of 494 is 123.5, and the odd one goes to the other source.
        seen = np.array([epoch_of(order, number) for number in range(4)])
        assert near[seen].sum(axis=1).tolist() == [123] * 4
        counts = np.bincount(seen.ravel(), minlength=494)
        # Over four epochs 492 near presentations of 404 samples and 1484 far ones of 90.
        assert set(counts[near]) == {1, 2}
        assert set(counts[~near]) == {16, 17}


def test_epochs_of_a_source_follow_each_other_without_a_gap():
    assert list(own_epochs(10, 7, 25)) == [(0, 7, 10), (1, 0, 10), (2, 0, 5)]
    assert list(own_epochs(10, 12, 15)) == [(1, 2, 5)]
    assert list(own_epochs(10, 5, 5)) == []


def test_presentations_of_all_sources_are_as_many_as_samples():
    table = a_table([40, 300, 90, 64], sources=["a", "b", "c", "a"])
    counts = presented(table, {"a": 1.0, "b": 1.0, "c": 1.0})
    assert sum(counts) == 494
    assert sorted(counts) == [164, 165, 165]


def test_a_source_that_is_held_out_has_no_share():
    assert presented(a_table(sources=["here"] * 3), {"here": 1.0, "held out": 9.0}) == [16]


def test_a_weight_too_small_to_be_presented_is_refused():
    with pytest.raises(ConfigError, match=r"presents every dataset, found 1e-06 for b, less than one sample"):
        presented(a_table(sources=["a", "b", "a"]), {"a": 1.0, "b": 1e-6})


def test_an_order_of_a_hundred_thousand_episodes_is_made_and_looked_up_at_once():
    lengths = np.random.default_rng(0).integers(50, 150, 100_000)
    order = blocks_order(lengths, batch_size=64, buffer_steps=512, blocks=[[0, 30, 49]] * len(lengths))
    seen = np.concatenate(
        [order.samples(step) for step in range(0, order.steps_per_epoch, order.steps_per_epoch // 50)]
    )
    assert len(set(seen.tolist())) == len(seen)
    assert 0 <= seen.min() < seen.max() < lengths.sum()
