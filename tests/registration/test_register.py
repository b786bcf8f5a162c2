from pathlib import Path

import pytest
from outcomes import CONFIG, outcome, registered, write_evaluation, write_rollout, write_training
from stores import curve

from vla.errors import CheckpointError, DataError, TrackingError
from vla.registration.candidate import Files
from vla.registration.versions import aliases
from vla.tracking import passport
from vla.tracking.journal import Journal
from vla.tracking.store import DatasetRecord
from vla.tracking.tracker import Tracker

POINTS = [(1, 2.0), (2, 1.0)]


def trained(project: Path) -> str:
    """Id of a run that a training made, with the first of the journal's two points."""
    with (
        Journal(project / "state" / "metrics.jsonl") as journal,
        Tracker.start(
            CONFIG.tracking,
            journal=journal.path,
            state=project / "state",
            params={"data.name": "toy"},
            tags={"mlflow.runName": "trained"},
            dataset=DatasetRecord("toy", "dataset-digest", "sim"),
        ) as tracker,
    ):
        journal.append(1, {"loss": 2.0})
    assert tracker.run_id is not None
    return tracker.run_id


def artifact_names(client, run_id: str, folder: str | None = None) -> set[str]:
    return {item.path for item in client.list_artifacts(run_id, folder)}


def all_runs(client) -> list:
    return list(client.search_runs([client.get_experiment_by_name("robots").experiment_id]))


def test_the_run_of_the_training_is_adopted_and_completed(project, client):
    run_id = trained(project)
    files = outcome(project / "outputs", run_id=run_id)
    record = registered(files)
    assert record["run_id"] == run_id
    run = client.get_run(run_id)
    assert (run.info.run_name, run.info.status) == ("trained", "FINISHED")
    assert curve(client, run_id) == POINTS
    assert run.data.params == {
        "data.name": "toy",
        "policy.name": "tiny_vla",
        "policy.action_horizon": "4",
        "seed": "0",
        "train.optimizer.lr": "0.001",
    }
    assert run.data.tags["bundle_digest"] == record["bundle_digest"]
    assert "restored" not in run.data.tags
    assert len(run.inputs.dataset_inputs) == 1
    headline = {name: run.data.metrics[name] for name in ("success", "swapped_success", "error_ratio", "mae", "mse")}
    assert headline == {"success": 0.8, "swapped_success": 0.0, "error_ratio": 0.5, "mae": 0.2, "mse": 0.04}


def test_everything_the_pipeline_made_is_an_artifact_of_the_run(project, client):
    record = registered(outcome(project / "outputs"))
    top = {
        "bundle",
        "evaluation",
        "evaluation.json",
        "passports",
        "rollout.json",
        "training",
        "validation.json",
        "videos",
    }
    assert artifact_names(client, record["run_id"]) == top
    assert "bundle/model.safetensors" in artifact_names(client, record["run_id"], "bundle")
    assert artifact_names(client, record["run_id"], "evaluation") == {"evaluation/report.html"}


def test_the_first_policy_becomes_version_1_and_champion(project, client):
    record = registered(outcome(project / "outputs"))
    assert (record["model"], record["version"], record["alias"], record["champion"]) == ("policy", 1, "champion", True)
    assert record["tracking_uri"] == f"sqlite:///{project}/mlflow.db"
    version = client.get_model_version_by_alias("policy", "champion")
    assert version.run_id == record["run_id"]
    assert version.tags["bundle_digest"] == record["bundle_digest"]
    assert (version.tags["success"], version.tags["error_ratio"]) == ("0.8", "0.5")


def test_the_registered_model_acts_as_the_bundle_does(project, client):
    import mlflow.pyfunc

    from vla.models import bundle as bundles
    from vla.serving import pyfunc

    files = outcome(project / "outputs")
    registered(files)
    source = client.get_model_version("policy", "1").source
    model_id = source.removeprefix("models:/")
    location = client.get_logged_model(model_id).artifact_location
    bundle = bundles.load(files.policy)
    example = pyfunc.input_example(bundle)
    served = mlflow.pyfunc.load_model(location).predict(example)
    context = type("Context", (), {"artifacts": {"bundle": str(files.policy)}})
    direct = pyfunc.PolicyModel()
    direct.load_context(context)
    assert served["actions"].tolist() == direct.predict(context, example)["actions"].tolist()
    assert not list(Path(location.removeprefix("file://")).rglob("*.pkl"))


def test_registering_again_changes_nothing(project, client):
    files = outcome(project / "outputs", run_id=trained(project))
    first = registered(files)
    run = client.get_run(first["run_id"])
    again = registered(files)
    assert {**again, "decision": ""} == {**first, "decision": ""}
    assert again["decision"] == "it is the champion already"
    assert client.get_run(first["run_id"]).data.to_dictionary() == run.data.to_dictionary()
    assert len(all_runs(client)) == 2
    assert len(client.search_model_versions("name = 'policy'")) == 1
    assert curve(client, first["run_id"], "success") == [(0, 0.8)]
    assert len(client.search_logged_models([run.info.experiment_id])) == 1


def test_a_run_that_the_store_does_not_know_is_made_from_the_files(project, client):
    record = registered(outcome(project / "outputs", run_id="0" * 32))
    run = client.get_run(record["run_id"])
    assert run.data.tags["restored"] == "true"
    assert run.info.status == "FINISHED"
    assert curve(client, record["run_id"]) == POINTS
    assert run.data.params["train.optimizer.lr"] == "0.001"
    assert run.inputs.dataset_inputs[0].dataset.digest == "dataset-digest"


def test_a_training_restored_from_the_cache_finds_its_run_by_the_bundle(project, client):
    files = outcome(project / "outputs", run_id=trained(project))
    first = registered(files)
    write_training(files, run_id=None)
    assert registered(files)["run_id"] == first["run_id"]


def test_a_run_that_belongs_to_another_bundle_is_not_adopted(project, client):
    run_id = trained(project)
    first = registered(outcome(project / "one", seed=1, run_id=run_id))
    second = registered(outcome(project / "two", seed=2, run_id=run_id))
    assert first["run_id"] == run_id
    assert second["run_id"] != run_id


def test_a_new_evaluation_of_the_same_policy_is_a_new_child_and_moves_the_headline(project, client):
    files = outcome(project / "outputs", success=0.6)
    first = registered(files)
    write_rollout(files, bundle_digest=first["bundle_digest"], success=0.9)
    second = registered(files)
    assert second["run_id"] == first["run_id"]
    assert second["evaluation_run_id"] != first["evaluation_run_id"]
    assert client.get_run(first["run_id"]).data.metrics["success"] == 0.9
    child = client.get_run(second["evaluation_run_id"])
    assert child.data.tags["mlflow.parentRunId"] == first["run_id"]
    assert child.data.metrics["success"] == 0.9
    assert child.data.metrics["error_ratio/open the drawer_ slowly"] == 0.5
    assert curve(client, second["evaluation_run_id"], "mae/horizon") == [(step, 0.2) for step in range(4)]
    assert client.get_model_version("policy", "1").tags["success"] == "0.9"
    write_rollout(files, bundle_digest=first["bundle_digest"], success=0.6)
    third = registered(files)
    assert third["evaluation_run_id"] == first["evaluation_run_id"]
    assert client.get_run(first["run_id"]).data.metrics["success"] == 0.6
    assert third["version"] == 1


def test_a_headline_that_an_evaluation_lacks_does_not_stay_from_an_earlier_one(project, client):
    files = outcome(project / "outputs", success=0.6)
    first = registered(files)
    write_rollout(files, bundle_digest=first["bundle_digest"], success=None)
    metrics = client.get_run(registered(files)["run_id"]).data.metrics
    assert metrics["success"] != metrics["success"]
    assert metrics["error_ratio"] == 0.5


def test_a_rollout_without_the_swapped_control_is_published_without_it(project, client):
    files = outcome(project / "outputs", success=0.6)
    digest = registered(files)["bundle_digest"]
    write_rollout(files, bundle_digest=digest, success=0.7, swapped=False)
    child = client.get_run(registered(files)["evaluation_run_id"])
    assert child.data.metrics["success"] == 0.7
    assert "swapped_success" not in child.data.metrics


def test_only_a_better_policy_takes_the_alias(project, client):
    worse, best, good = (
        outcome(project / name, seed=seed, success=success)
        for seed, (name, success) in enumerate([("worse", 0.5), ("best", 0.9), ("good", 0.7)])
    )
    assert registered(worse)["champion"]
    assert registered(best)["champion"]
    lost = registered(good)
    assert (lost["version"], lost["alias"], lost["champion"]) == (3, "challenger", False)
    assert lost["decision"] == "success 0.700 does not beat the champion's 0.900"
    assert aliases(client, "policy") == {"champion": "2", "challenger": "3"}
    assert registered(best)["champion"]
    assert registered(good)["alias"] == "challenger"
    assert len(client.search_model_versions("name = 'policy'")) == 3


def test_a_challenger_that_becomes_champion_is_challenger_no_more(project, client):
    registered(outcome(project / "old", seed=1, success=0.8))
    files = outcome(project / "new", seed=2, success=0.7)
    digest = registered(files)["bundle_digest"]
    write_rollout(files, bundle_digest=digest, success=0.95)
    assert registered(files)["champion"]
    assert aliases(client, "policy") == {"champion": "2"}


def test_inside_an_experiment_the_run_is_published_and_nothing_else(project, client, monkeypatch):
    files = outcome(project / "outputs")
    monkeypatch.setenv("DVC_EXP_NAME", "rusty-lamp")
    record = registered(files)
    assert (record["version"], record["alias"], record["champion"]) == (None, None, False)
    assert client.search_registered_models() == []
    assert client.get_run(record["run_id"]).data.metrics["success"] == 0.8
    monkeypatch.setenv("DVC_EXP_NAME", "proud-mouse")
    assert registered(files)["run_id"] == record["run_id"]
    assert client.get_run(record["run_id"]).data.tags["dvc_experiment"] == "proud-mouse, rusty-lamp"
    monkeypatch.delenv("DVC_EXP_NAME")
    applied = registered(files)
    assert (applied["run_id"], applied["version"], applied["champion"]) == (record["run_id"], 1, True)


def test_a_store_that_does_not_answer_leaves_a_message_and_no_record(project, monkeypatch):
    files = outcome(project / "outputs")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://name:secret@127.0.0.1:1")
    with pytest.raises(TrackingError, match=r"Training is complete.*dvc repro") as caught:
        registered(files)
    assert "secret" not in str(caught.value)
    assert not (project / "outputs" / "registration.json").exists()


def test_an_interrupted_registration_is_completed_by_the_next(project, client, monkeypatch):
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    files = outcome(project / "outputs")
    names = ("log_artifacts", "set_terminated", "log_dict", "finalize_logged_model", "create_model_version")
    for name in names:
        with monkeypatch.context() as patch:

            def refuse(*args, **keywords):
                raise MlflowException("down")

            patch.setattr(MlflowClient, name, refuse)
            with pytest.raises(TrackingError, match="down"):
                registered(files)
    record = registered(files)
    assert (record["version"], record["alias"]) == (1, "champion")
    assert len(all_runs(client)) == 2
    assert curve(client, record["run_id"]) == POINTS
    assert len(client.search_logged_models([client.get_run(record["run_id"]).info.experiment_id])) == 1


def without_passport(files: Files) -> None:
    (files.policy / "passport.json").unlink()


def damaged(files: Files) -> None:
    (files.policy / "tokenizer.json").write_text("{}")


def without_evaluation(files: Files) -> None:
    files.evaluation.unlink()


def evaluated_another(files: Files) -> None:
    write_evaluation(files, bundle_digest="other", error_ratio=0.1)


def failed_validation(files: Files) -> None:
    files.validation.write_text(files.validation.read_text().replace("passed", "failed"))


@pytest.mark.parametrize(
    ("harm", "error", "message"),
    [
        (without_passport, CheckpointError, "passport"),
        (damaged, CheckpointError, "changed or damaged"),
        (without_evaluation, DataError, "Run 'dvc repro evaluate'"),
        (evaluated_another, DataError, "this bundle"),
        (failed_validation, DataError, "found status 'failed'"),
    ],
)
def test_what_must_not_be_registered_is_refused_before_the_store_is_touched(project, client, harm, error, message):
    files = outcome(project / "outputs")
    harm(files)
    with pytest.raises(error, match=message):
        registered(files)
    assert client.get_experiment_by_name("robots") is None


def test_a_comparison_on_the_champions_training_episodes_is_refused_without_a_version(project, client):
    registered(outcome(project / "old", seed=1, train="abc", validation="de"))
    with pytest.raises(DataError, match="has not seen"):
        registered(outcome(project / "new", seed=2, train="ade", validation="bc"))
    assert len(client.search_model_versions("name = 'policy'")) == 1


def test_a_champion_that_somebody_made_by_hand_is_not_overrun(project, client):
    client.create_registered_model("policy")
    client.create_model_version("policy", "s3://elsewhere/model")
    client.set_registered_model_alias("policy", "champion", "1")
    with pytest.raises(DataError, match="expected a version that stage register made"):
        registered(outcome(project / "outputs"))


def test_a_champion_with_a_passport_of_an_older_schema_is_refused_with_the_way_out(project, client, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(passport, "SCHEMA", 1)
        registered(outcome(project / "old", seed=1))
    with pytest.raises(DataError, match=r"expected a passport of schema 2, found schema 1.*remove the alias"):
        registered(outcome(project / "new", seed=2))
