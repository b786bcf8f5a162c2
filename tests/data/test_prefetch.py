import threading
import time

import pytest

from vla.data.prefetch import Prefetch


def test_values_are_made_in_order_and_ahead_of_their_use():
    made, third = [], threading.Event()

    def make(number: int) -> int:
        made.append(number)
        if number == 2:
            third.set()
        return number * number

    with Prefetch(make, ahead=2, end=10) as values:
        assert values.get(0) == 0
        assert third.wait(10)
        assert made == [0, 1, 2]
        assert values.get(1) == 1
        assert values.get(2) == 4


def test_nothing_is_made_beyond_the_end_unless_it_is_asked_for():
    made = []
    with Prefetch(made.append, ahead=5, end=3) as values:
        for number in (0, 1, 2, 7):
            values.get(number)
    assert made == [0, 1, 2, 7]


def test_a_jump_forgets_what_was_made_for_another_place():
    with Prefetch(lambda number: number, ahead=3, end=100) as values:
        assert [values.get(number) for number in (0, 1, 50, 51, 51, 3)] == [0, 1, 50, 51, 51, 3]


def test_without_prefetch_values_are_made_when_asked_for_in_the_caller_s_thread():
    threads = []
    with Prefetch(lambda number: threads.append(threading.current_thread()), ahead=0, end=9) as values:
        values.get(4)
    assert threads == [threading.current_thread()]


def test_a_failure_is_raised_where_its_value_is_asked_for():
    def make(number: int) -> int:
        if number == 2:
            raise ValueError("episode 7 is damaged")
        return number

    with Prefetch(make, ahead=4, end=9) as values:
        assert [values.get(0), values.get(1)] == [0, 1]
        with pytest.raises(ValueError, match="episode 7 is damaged"):
            values.get(2)
        assert values.get(3) == 3


def test_closing_waits_for_the_value_being_made_and_for_no_other():
    started, made = threading.Event(), []

    def make(number: int) -> None:
        started.set()
        time.sleep(0.05)
        made.append(number)

    values = Prefetch(make, ahead=50, end=100)
    values.get(0)
    started.clear()
    assert started.wait(10)
    values.close()
    assert len(made) <= 3
