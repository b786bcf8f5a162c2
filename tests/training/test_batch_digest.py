"""The digest of a step's batch: of every bit that decides a sample's loss, and of nothing else."""

import itertools
from dataclasses import fields, replace

import pytest
import torch
from batches import fake_batch, tiny_policy

from vla.models.policy import Observation
from vla.training.batch_digest import MODULUS, digest

_, SPEC = tiny_policy("tiny_vla")
WHOLE = replace(fake_batch(SPEC, 6), weight_total=7.0)


def rows(first: int, last: int):
    return replace(fake_batch(SPEC, 6, rows=slice(first, last)), weight_total=7.0)


@pytest.mark.parametrize("cuts", [(0, 6), (0, 3, 6), (0, 1, 2, 4, 6)])
def test_the_parts_of_a_batch_add_up_to_the_whole_in_any_order(cuts):
    parts = [digest(rows(first, last), first=first) for first, last in itertools.pairwise(cuts)]
    assert sum(reversed(parts)) % MODULUS == digest(WHOLE, first=0)


def test_the_place_of_a_sample_counts():
    assert digest(rows(0, 1), first=0) != digest(rows(0, 1), first=1)
    assert digest(rows(0, 1), first=0) + digest(rows(1, 2), first=1) != (
        digest(rows(1, 2), first=0) + digest(rows(0, 1), first=1)
    )


def flipped(values: torch.Tensor) -> torch.Tensor:
    """With another bit at the end of the last sample."""
    copied = values.clone()
    if copied.dtype == torch.bool:
        copied[-1].flatten()[-1] ^= True
    else:
        copied[-1:].view(torch.uint8).flatten()[-1] ^= 1
    return copied


BATCH_FIELDS = [item.name for item in fields(WHOLE) if isinstance(getattr(WHOLE, item.name), torch.Tensor)]
OBSERVED = [item.name for item in fields(Observation) if isinstance(getattr(WHOLE.obs, item.name), torch.Tensor)]


@pytest.mark.parametrize("name", BATCH_FIELDS)
def test_one_bit_of_a_sample_changes_it(name):
    other = replace(WHOLE, **{name: flipped(getattr(WHOLE, name))})
    assert digest(other, first=0) != digest(WHOLE, first=0)


@pytest.mark.parametrize("name", OBSERVED)
def test_one_bit_of_what_is_observed_changes_it(name):
    other = replace(WHOLE, obs=replace(WHOLE.obs, **{name: flipped(getattr(WHOLE.obs, name))}))
    assert digest(other, first=0) != digest(WHOLE, first=0)


def test_features_in_place_of_images_and_the_total_weight_count():
    obs = replace(WHOLE.obs, images_BTVCYX=None, features={"grid": torch.zeros(6, 1, 2, 3)})
    cached = replace(WHOLE, obs=obs)
    other = replace(cached, obs=replace(obs, features={"grid": flipped(obs.features["grid"])}))
    assert len({digest(batch, first=0) for batch in (WHOLE, cached, other, replace(WHOLE, weight_total=8.0))}) == 4


def test_a_digest_survives_float64():
    found = digest(WHOLE, first=0)
    assert 0 <= found < MODULUS
    assert float(found) == found
    assert float(8192 * (MODULUS - 1)) == 8192 * (MODULUS - 1)
