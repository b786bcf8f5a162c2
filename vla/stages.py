"""The pipeline, in order: stage name -> (module, what it does).

The name is the same word in `dvc.yaml`, in `params.yaml`, on the command line and in Prefect. A stage module has a
class `Config` (the parameters it reads) and a function `run(cfg, *, <artifact>: Path, ...)` (files in, files out).
"""

STAGES: dict[str, tuple[str, str]] = {
    "download": ("vla.data.download", "fetch or generate the demonstrations"),
    "validate": ("vla.data.validate", "check the dataset, write the episode table and its split"),
    "norm_stats": ("vla.data.norm_stats", "exact statistics of state and actions over the train split"),
    "cache_features": ("vla.caching.cache_features", "run the policy's frozen part once over all steps"),
    "train": ("vla.training.train", "train the policy (Ray Train, torchrun or one process)"),
    "evaluate": ("vla.evaluation.evaluate", "offline error on held-out episodes"),
    "rollout": ("vla.evaluation.rollout", "closed-loop success in simulation"),
    "register": ("vla.registration.register", "publish the run, pass the gate, register the model version"),
}
