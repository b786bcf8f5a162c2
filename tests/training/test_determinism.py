"""Equal bits on a GPU: what can be seen of it without one."""

import os

import pytest
import torch
from safetensors.torch import load_file

from vla.training import distributed, loop
from vla.training.determinism import WORKSPACE, deterministic


def settings() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark


def test_settings_hold_inside_and_are_put_back_after(monkeypatch):
    monkeypatch.delenv(WORKSPACE, raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    with deterministic(on=True):
        assert settings() == (True, False)
        assert os.environ[WORKSPACE] == ":4096:8"
    assert settings() == (False, True)


def test_a_workspace_that_the_user_has_chosen_stays(monkeypatch):
    monkeypatch.setenv(WORKSPACE, ":16:8")
    with deterministic(on=True):
        assert os.environ[WORKSPACE] == ":16:8"


def test_nothing_is_changed_where_it_is_off(monkeypatch):
    monkeypatch.delenv(WORKSPACE, raising=False)
    before = settings()
    with deterministic(on=False):
        assert settings() == before
        assert WORKSPACE not in os.environ


def test_an_operation_without_a_deterministic_kernel_is_refused():
    places, values = torch.zeros(2, dtype=torch.int64), torch.ones(2)
    torch.zeros(3).put_(places, values)
    with deterministic(on=True), pytest.raises(RuntimeError, match="does not have a deterministic implementation"):
        torch.zeros(3).put_(places, values)


def test_a_cpu_computes_the_same_either_way(make_job, monkeypatch):
    monkeypatch.delenv(WORKSPACE, raising=False)
    found = []
    for on in (False, True):
        job = make_job(f"{on}", train__deterministic=on)
        loop.train(job, distributed.single("cpu"))
        found.append(load_file(job.state_directory.bundle / "model.safetensors"))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_equal_bits_twice(make_job):
    found = []
    for name in ("once", "again"):
        job = make_job(name, train__deterministic=True, execution__device="cuda")
        loop.train(job, distributed.single("cuda"))
        found.append(load_file(job.state_directory.bundle / "model.safetensors"))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
