"""What a worker builds from a job."""

from projects import a_project, train_paths

from vla.models.bundle import BundleConfig
from vla.training.job import Job, JobConfig
from vla.training.parts import Parts


def test_a_bundle_knows_the_columns_that_its_policy_is_trained_on(tmp_path):
    project = a_project(tmp_path)
    inputs = {key: train_paths(project)[key] for key in ("dataset", "episodes", "norm_stats")}
    cfg = JobConfig.load(project / "params.yaml")
    job = Job(cfg=cfg, **inputs, state=tmp_path / "state", frames=tmp_path / "frames", code="0", passport={})
    config = Parts.build(job).bundle_config
    assert config.columns == cfg.data.columns
    assert config.state_columns == {"observation.state": len(config.state_names)}
    assert BundleConfig.parse(config.plain(), where="test") == config
