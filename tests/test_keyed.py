"""Keyed randomness: frozen values, distributions, and independence of everything but the key."""

import hashlib
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla import keyed

INTEGERS = st.integers(-(2**63), 2**63 - 1)


def philox_block(key: tuple[int, int], counter: list[int]) -> list[int]:
    """Philox4x64-10 in plain integers, after Salmon et al., SC 2011, doi:10.1145/2063384.2063405."""
    mask, words, (low, high) = 2**64 - 1, list(counter), key
    for _ in range(10):
        high0, low0 = divmod(0xD2E7470EE14C6C93 * words[0], 2**64)
        high1, low1 = divmod(0xCA5A826395121157 * words[2], 2**64)
        words = [high1 ^ words[1] ^ low, low1, high0 ^ words[3] ^ high, low0]
        low, high = (low + 0x9E3779B97F4A7C15) & mask, (high + 0xBB67AE8584CAA73B) & mask
    return words


def test_the_reference_cipher_gives_its_authors_known_answer():
    expected = [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]
    assert philox_block((0, 0), [0, 0, 0, 0]) == expected


def test_words_are_philox_under_the_hashed_key():
    digest = hashlib.blake2b(struct.pack("<qqq", 5, 7, -2), digest_size=16, person=b"noise").digest()
    key = struct.unpack("<QQ", digest)
    # numpy counts up before each block, so its first block is number 1.
    expected = [*philox_block(key, [1, 0, 0, 0]), *philox_block(key, [2, 0, 0, 0])[:2]]
    assert keyed.words(5, "noise", 7, -2, count=6).tolist() == expected


def test_words_keep_their_frozen_values():
    assert keyed.words(0, "noise", 7, count=3).tolist() == [
        0x7AEB6E2FD4689461,
        0x71ECF3DFC136C055,
        0x9D9F8A80216C838F,
    ]


def test_uniforms_keep_their_frozen_values():
    assert keyed.uniform(0, "noise", 7, count=3).tolist() == [
        0.4801548830768375,
        0.44502186024439105,
        0.6157156527346378,
    ]


def test_normals_keep_their_frozen_values():
    expected = [[-0.9050124287605286, 1.2579647302627563], [-0.805137038230896, -0.19180357456207275]]
    np.testing.assert_allclose(keyed.normal(0, "noise", 7, shape=(2, 2)), expected, rtol=3e-7)


def test_integers_permutations_and_uids_keep_their_frozen_values():
    assert keyed.integers(0, "augment", 7, count=6, low=-4, high=5).tolist() == [-3, -2, 1, 0, -4, -1]
    assert keyed.permutation(0, "order", 1, count=8).tolist() == [2, 4, 1, 6, 5, 3, 0, 7]
    assert keyed.uid("metaworld-easy-4", 3) == 5243203491551716853
    assert keyed.uid("metaworld-easy-4", 3, 0) == 4708573566382543689


def test_the_extreme_words_become_uniforms_strictly_between_zero_and_one():
    low, high = keyed._open_unit(np.array([0, 2**64 - 1], dtype=np.uint64))
    assert low == 2.0**-53
    assert high == 1 - 2.0**-53


def test_uniforms_have_the_moments_of_the_uniform_law():
    values = keyed.uniform(1, "time", count=100_000)
    assert abs(values.mean() - 1 / 2) < 4 * np.sqrt(1 / 12 / 100_000)
    assert abs(values.var() - 1 / 12) < 0.001


def test_normals_have_the_moments_of_the_normal_law_and_are_uncorrelated():
    values = keyed.normal(1, "noise", shape=(100_000,)).astype(np.float64)
    assert abs(values.mean()) < 4 / np.sqrt(100_000)
    assert abs(values.var() - 1) < 0.02
    assert abs((values**3).mean()) < 0.05
    assert abs((values**4).mean() - 3) < 0.15
    half = len(values) // 2
    assert abs(np.corrcoef(values[:half], values[half:])[0, 1]) < 0.02


@given(seed=INTEGERS, indices=st.lists(st.tuples(INTEGERS), min_size=1, max_size=4), count=st.integers(1, 30))
def test_many_keys_at_once_give_the_bits_of_each_alone(seed, indices, count):
    apart = [keyed.normal(seed, "noise", *index, shape=(count, 2)) for index in indices]
    np.testing.assert_array_equal(keyed.normals(seed, "noise", indices, shape=(count, 2)), np.stack(apart))
    apart = [keyed.uniform(seed, "time", *index, count=count) for index in indices]
    np.testing.assert_array_equal(keyed.uniforms(seed, "time", indices, count=count), np.stack(apart))


def test_threads_draw_what_one_thread_draws():
    def draw(index: int) -> list[int]:
        return [int(keyed.words(index, "noise", step, count=1)[0]) for step in range(300)]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(draw, range(4))) == [draw(index) for index in range(4)]


def test_an_odd_number_of_normals_fills_its_shape():
    assert keyed.normal(0, "noise", shape=(3, 5, 1)).shape == (3, 5, 1)
    assert keyed.normal(0, "noise", shape=(3,)).dtype == np.float32


@given(seed=INTEGERS, low=st.integers(-50, 50), span=st.integers(1, 50))
def test_integers_lie_in_the_half_open_range(seed, low, span):
    values = keyed.integers(seed, "augment", count=200, low=low, high=low + span)
    assert values.min() >= low
    assert values.max() < low + span


def test_integers_take_every_value_about_equally_often():
    counts = np.bincount(keyed.integers(0, "augment", count=9_000, low=0, high=9))
    assert counts.min() > 850
    assert counts.max() < 1150


@given(seed=INTEGERS, count=st.integers(0, 300))
def test_a_permutation_holds_every_index_once(seed, count):
    assert sorted(keyed.permutation(seed, "order", count=count).tolist()) == list(range(count))


@given(seed=INTEGERS, index=st.lists(INTEGERS, max_size=3))
def test_equal_keys_give_equal_words_whatever_was_drawn_before(seed, index):
    first = keyed.words(seed, "noise", *index, count=5)
    keyed.words(seed, "time", *index, count=100)
    np.random.default_rng(0).normal(size=10)
    assert np.array_equal(first, keyed.words(seed, "noise", *index, count=5))
    assert np.array_equal(first[:2], keyed.words(seed, "noise", *index, count=2))


def test_seeds_purposes_and_indices_all_change_the_words():
    keys = [(seed, purpose, *index) for seed in (0, 1) for purpose in ("noise", "time") for index in [(), (0,), (1,)]]
    keys += [(0, "noise", 0, 1), (0, "noise", 1, 0)]
    streams = {tuple(keyed.words(*key, count=2).tolist()) for key in keys}
    assert len(streams) == len(keys)


def test_a_purpose_too_long_to_be_told_from_another_is_refused():
    with pytest.raises(ValueError, match="16"):
        keyed.words(0, "a purpose of many letters", count=1)


def test_a_uid_fits_a_signed_column_and_tells_its_parts_apart():
    uids = [keyed.uid("data", episode, step) for episode in range(30) for step in range(30)]
    assert len(set(uids)) == 900
    assert min(uids) >= 0
    assert max(uids) < 2**63
    assert keyed.uid("a", "bc") != keyed.uid("ab", "c")
