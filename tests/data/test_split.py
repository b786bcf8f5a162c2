"""The split depends on hashes of contents alone: neither order, nor other tasks, nor numbering moves an episode."""

import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla.data.split import held_out, held_out_by_name

TASKS = st.lists(st.sampled_from(["open", "press", "turn"]), min_size=1, max_size=60)
HOLDOUT = st.floats(0.02, 0.9)


def contents(count: int, prefix: str = "content") -> list[str]:
    return [f"{prefix} {index}" for index in range(count)]


def held_contents(tasks: list[str], made_of: list[str], holdout: float) -> set[str]:
    chosen = held_out(tasks, made_of, holdout=holdout)
    return {content for content, is_held in zip(made_of, chosen, strict=True) if is_held}


def test_each_task_gives_its_share():
    tasks = ["open"] * 50 + ["press"] * 30
    chosen = held_out(tasks, contents(80), holdout=0.1)
    assert Counter(np.array(tasks)[chosen].tolist()) == {"open": 5, "press": 3}


def test_the_split_of_named_contents_is_frozen():
    assert np.flatnonzero(held_out(["open"] * 20, contents(20), holdout=0.2)).tolist() == [1, 7, 13, 17]


def test_a_single_episode_is_held_out_from_a_small_dataset():
    assert held_out(["open"] * 3, contents(3), holdout=0.1).sum() == 1


def test_tasks_too_small_to_be_split_form_one_stratum():
    # Forty tasks of one episode each: a tenth of them, not one of each and not none.
    assert held_out(contents(40, "task"), contents(40), holdout=0.1).sum() == 4


def test_a_rare_task_stays_in_training_when_large_ones_give_episodes():
    tasks = ["open"] * 20 + ["rare"]
    assert not held_out(tasks, contents(21), holdout=0.1)[-1]


def test_nothing_is_held_out_when_nothing_is_asked_for():
    assert not held_out(["open"] * 30, contents(30), holdout=0.0).any()


def test_no_episodes_give_no_split():
    assert held_out([], [], holdout=0.1).tolist() == []


@given(tasks=TASKS, holdout=HOLDOUT, random=st.randoms())
def test_the_order_of_episodes_is_irrelevant(tasks, holdout, random):
    made_of = contents(len(tasks))
    order = list(range(len(tasks)))
    random.shuffle(order)
    shuffled = held_contents([tasks[i] for i in order], [made_of[i] for i in order], holdout)
    assert shuffled == held_contents(tasks, made_of, holdout)


@given(tasks=TASKS, holdout=HOLDOUT, added=st.integers(0, 50))
def test_episodes_of_another_task_move_none_of_the_tasks_that_are_split_by_themselves(tasks, holdout, added):
    made_of = contents(len(tasks))
    before = held_out(tasks, made_of, holdout=holdout)
    enough = max(added, int(np.ceil(1 / holdout)) + 1)
    after = held_out([*tasks, *["another"] * enough], [*made_of, *contents(enough, "other")], holdout=holdout)
    counts = Counter(tasks)
    for index, task in enumerate(tasks):
        if counts[task] * holdout >= 1:
            assert before[index] == after[index]


@given(tasks=TASKS, holdout=HOLDOUT)
def test_the_number_held_out_is_the_rounded_share_of_every_stratum(tasks, holdout):
    chosen = held_out(tasks, contents(len(tasks)), holdout=holdout)
    counts = Counter(tasks)
    large = [count for count in counts.values() if count * holdout >= 1]
    expected = sum(round(count * holdout) for count in large) + round((len(tasks) - sum(large)) * holdout)
    assert chosen.sum() == max(1, expected)


@given(made_of=st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=40), tasks=st.data(), holdout=HOLDOUT)
def test_equal_contents_are_always_on_one_side(made_of, tasks, holdout):
    names = tasks.draw(st.lists(st.sampled_from(["open", "press"]), min_size=len(made_of), max_size=len(made_of)))
    chosen = held_out(names, made_of, holdout=holdout)
    for content in set(made_of):
        sides = {bool(is_held) for other, is_held in zip(made_of, chosen, strict=True) if other == content}
        assert len(sides) == 1


@pytest.mark.parametrize("paraphrases", [2, 3])
def test_recordings_that_occur_under_several_instructions_are_not_held_out_several_times_over(paraphrases):
    tasks = [f"task {index}" for index in range(paraphrases) for _ in range(50)]
    made_of = contents(50) * paraphrases
    assert len(held_contents(tasks, made_of, 0.1)) == 5


def test_a_source_is_held_out_as_a_whole_with_every_copy_of_its_episodes():
    sources, made_of = ["main", "main", "bridge", "bridge", "main"], ["a", "b", "c", "a", "d"]
    assert held_out_by_name(sources, made_of, name="bridge").tolist() == [True, False, True, True, False]


def test_the_split_of_many_small_tasks_costs_no_pass_over_all_for_each():
    tasks = [f"task {index % 20_000}" for index in range(100_000)]
    began = time.process_time()
    assert held_out(tasks, contents(100_000), holdout=0.2).sum() == 20_000
    assert time.process_time() - began < 10
