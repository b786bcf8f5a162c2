"""The result of a training is there as a whole or not at all, whatever interrupts the writing of it."""

import itertools
import shutil

import pytest
from checkpoints import names
from interruptions import Trace, killed, traced

from vla.models import bundle
from vla.training import distributed, train
from vla.training.loop import Worker


@pytest.mark.parametrize("made_before", [False, True])
def test_a_training_killed_at_any_file_operation_of_its_end_is_finished_later(make_job, made_before):
    """`made_before`: a bundle lies there that the kill of an earlier end left without done.json."""
    job = make_job(train__steps=1)
    state = job.state_directory
    worker = Worker.start(job, distributed.single("cpu"))
    with worker.feed:
        worker.resume()
        assert worker.run() == "done"
    worker.finish()
    digest, present = state.summary()["bundle_digest"], names(state.path)
    for at in itertools.count(1):
        state.done.unlink()
        if not made_before:
            shutil.rmtree(state.bundle)
        interrupted = killed(worker.finish, at=at)
        if state.done.is_file():
            assert bundle.digest_of(state.bundle) == state.summary()["bundle_digest"] == digest
        # What the next start does before anything else.
        assert train._last_intact_step(state) == 1
        with traced(Trace()):
            worker.finish()
        assert bundle.digest_of(state.bundle) == state.summary()["bundle_digest"] == digest
        assert names(state.path) == sorted({*present, "writer.lock"})
        if not interrupted:
            break
    assert at > 40
