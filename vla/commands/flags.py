"""Words of the command line as the numbers that flags take."""

import argparse
import math


def count(word: str) -> int:
    """A whole number of at least one."""
    value = _number(word)
    if not (value.is_integer() and value >= 1):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found {word}")
    return int(value)


def positive(word: str) -> float:
    """A number above 0."""
    value = _number(word)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {word}")
    return value


def share(word: str) -> float:
    """A part of a whole."""
    value = _number(word)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"expected a share above 0 and up to 1, found {word}")
    return value


def dimensions(word: str) -> tuple[int, int]:
    """FIRST:END, the first dimension and the one after the last."""
    first, separator, end = word.partition(":")
    if not (separator and first.isdecimal() and end.isdecimal() and int(first) < int(end)):
        raise argparse.ArgumentTypeError(f"expected FIRST:END, such as 0:6 for the dimensions 0 to 5, found {word}")
    return int(first), int(end)


def _number(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a number, found {word}")
    return value
