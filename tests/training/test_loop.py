"""Whole trainings of a toy project in this process."""

import json
import logging
import re
import subprocess

import pytest
import torch
from projects import train_paths, write_params
from safetensors.torch import load_file

from vla.errors import ConfigError, DataError
from vla.training import distributed, loop, train
from vla.training.job import Job
from vla.training.parts import Parts


def trained(job: Job) -> dict[str, torch.Tensor]:
    assert loop.train(job, distributed.single("cpu")) == "done"
    return load_file(job.state_directory.bundle / "model.safetensors")


def rows_of(job: Job) -> list[dict[str, float]]:
    return [json.loads(line)["metrics"] for line in job.state_directory.journal.read_text().splitlines()]


@pytest.mark.parametrize("order", ["full", "blocks"])
def test_neither_prefetch_nor_threads_nor_the_micro_batch_change_what_is_trained_on(make_job, order):
    changes = {"train__order": order, "train__buffer_steps": 6}
    plain = trained(make_job("plain", **changes, execution__prefetch=0))
    ahead = trained(make_job("ahead", **changes, execution__prefetch=3, execution__decode_threads=2))
    assert all(torch.equal(plain[name], ahead[name]) for name in plain)
    cut = make_job("cut", **changes, execution__micro_batch=3)
    trained(cut)
    first, second = (
        [row["loss"] for row in rows_of(job) if "loss" in row] for job in (make_job("plain", **changes), cut)
    )
    assert first[0] == pytest.approx(second[0], rel=1e-5)
    assert first == pytest.approx(second, rel=1e-2)


def test_orders_differ(make_job):
    full, blocks = (trained(make_job(order, train__order=order)) for order in ("full", "blocks"))
    assert any(not torch.equal(full[name], blocks[name]) for name in full)


def test_metrics_say_how_fast_the_loader_is_and_how_long_training_waits(make_job):
    job = make_job()
    trained(job)
    rows = [row for row in rows_of(job) if "loss" in row]
    assert rows[0]["loader_samples_per_s"] > 0
    assert all(0 <= row["data_wait"] <= 1 for row in rows)


def test_the_stage_says_at_its_end_whether_the_loader_keeps_up(project, monkeypatch, caplog):
    subprocess.run(["git", "init", "-q", project], check=True)
    monkeypatch.chdir(project)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/mlflow.db")
    write_params(project, {"train.steps": 4})
    with caplog.at_level(logging.INFO):
        train.run(train.Config.load(project / "params.yaml"), **train_paths(project))
    summary = json.loads(train_paths(project)["metrics"].read_text())
    assert summary["loader_samples_per_s"] > 0
    assert f"headroom {summary['loader_headroom']:.2f}" in caplog.text


def test_self_checks_say_of_which_step_they_are_and_only_a_fresh_start_has_a_first_loss(make_job):
    job = make_job(train__steps=2)
    begun = []
    for _ in range(2):
        trained(job)
        found = json.loads(job.state_directory.self_checks.read_text())
        begun.append((found["step"], "first loss" in [finding["check"] for finding in found["findings"]]))
        job.state_directory.done.unlink()
    assert begun == [(0, True), (2, False)]


def test_a_loss_that_is_not_finite_names_episodes_and_steps(make_job):
    job = make_job(train__optimizer__lr=1e30)
    with pytest.raises(DataError) as caught:
        loop.train(job, distributed.single("cpu"))
    assert re.search(
        r"at step \d+\. Not finite are the errors of (toy episode \d step \d+(, | )){4}and 4 more\. ", str(caught.value)
    )


def test_supervising_padded_actions_adds_their_weight(make_job):
    plain, padded = (Parts.build(make_job(train__supervise_padded=value)).training for value in (False, True))
    for training, full in ((plain, False), (padded, True)):
        batch = training.batch(0, 0, 8)
        assert (batch.weight_total == batch.weight_BPHA.numel()) == full
        assert batch.weight_total == float(batch.weight_BPHA.sum())


def test_only_the_held_out_samples_in_use_are_decoded(make_job):
    parts = Parts.build(make_job(train__validation_samples=3, train__validation_actions=4))
    assert len(parts.validation.held.sample_K) == 3
    assert len(parts.validation.held.frames.stored_NVYXC) == 4


def test_groups_that_do_not_fit_in_memory_are_refused_before_training(make_job):
    job = make_job(train__order="blocks", train__buffer_steps=10_000, execution__cache_bytes=1_000_000)
    with pytest.raises(ConfigError, match=r"execution\.cache_bytes.*train\.buffer_steps"):
        loop.train(job, distributed.single("cpu"))
