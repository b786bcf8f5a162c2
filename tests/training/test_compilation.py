"""torch.compile as a setting."""

import shutil

import pytest
import torch
from batches import tiny_policy
from safetensors.torch import load_file

from vla.errors import LaunchError
from vla.training import distributed, loop
from vla.training.compilation import compiled


def test_a_missing_compiler_is_named_before_training(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    policy, _ = tiny_policy("tiny_vla")
    with pytest.raises(LaunchError, match=r"train\.compile: .*found no no-such-compiler\. Install one"):
        compiled(policy, torch.device("cpu"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # of torch's own compiler, when it is imported
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs g++")
def test_a_compiled_training_computes_the_same_up_to_rounding(make_job):
    found = {}
    for compile_ in (False, True):
        job = make_job(f"{compile_}", train__steps=3, train__compile=compile_)
        loop.train(job, distributed.single("cpu"))
        found[compile_] = load_file(job.state_directory.bundle / "model.safetensors")
    assert list(found[True]) == list(found[False])
    assert any(not torch.equal(found[True][name], found[False][name]) for name in found[True])
    for name, value in found[True].items():
        torch.testing.assert_close(value, found[False][name], rtol=0, atol=1e-3)
