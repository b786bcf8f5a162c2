import shutil

import pytest
import torch
from batches import fake_batch, tiny_policy

from vla.errors import LaunchError
from vla.models.compiled import compile_acting


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    policy, _ = tiny_policy("tiny_vla")
    with pytest.raises(
        LaunchError, match=r"--compile: .*found no no-such-compiler\. Install one .* turn --compile off"
    ):
        compile_acting(policy, setting="--compile")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # of torch's own compiler, when it is imported
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs g++")
@pytest.mark.parametrize("name", ["tiny_vla", "pi05"])
def test_a_compiled_policy_acts_the_same_up_to_rounding(name):
    policy, spec = tiny_policy(name)
    policy.eval()
    batch, names = fake_batch(spec, 1), list(policy.state_dict())
    noise, memory = batch.noise_BPHA[:, 0], policy.initial_memory(1, torch.device("cpu"))
    expected, _ = policy.act(batch.obs, memory, noise, 3)
    compile_acting(policy, setting="--compile")
    for _ in range(2):
        found, _ = policy.act(batch.obs, memory, noise, 3)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert list(policy.state_dict()) == names
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2
