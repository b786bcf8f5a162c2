"""What a worker builds from a job."""

from projects import a_job, a_project

from vla.models.bundle import BundleConfig
from vla.training.parts import Parts


def test_a_bundle_knows_the_columns_that_its_policy_is_trained_on(tmp_path):
    project = a_project(tmp_path)
    job = a_job(project, state=tmp_path / "state", frames=tmp_path / "frames")
    config = Parts.build(job).bundle_config
    assert config.columns == job.cfg.data.columns
    assert config.state_columns == {"observation.state": len(config.state_names)}
    assert BundleConfig.parse(config.plain(), where="test") == config
