import pytest
import torch
from batches import INTERFACE, SETTINGS, fake_batch
from bundles import a_bundle

from vla import registry
from vla.errors import ConfigError
from vla.models import bundle
from vla.models.flow_matching import SAMPLERS
from vla.models.policy import build_policy


def a_policy(**changes):
    module = registry.find("policies", "tiny_vla")
    cfg = module.Config.parse({"name": "tiny_vla", **SETTINGS["tiny_vla"], **changes}, where="tests")
    spec = module.make_spec(cfg, INTERFACE)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        policy, _ = build_policy(module, cfg, spec)
    return policy.eval(), fake_batch(spec, 2)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_policy_samples_as_its_settings_say(name):
    policy, batch = a_policy(sampler=name)
    noise = batch.noise_BPHA[:, 0]
    chunk, _ = policy.act(batch.obs, {}, noise, 2)
    with torch.no_grad():
        context = policy.encode(batch.obs, {}).context
        field = lambda x, t: policy.velocity(context, x, torch.full(x.shape[:2], t))  # noqa: E731
        assert torch.equal(chunk, SAMPLERS[name](field, noise, 2))


def test_a_policy_samples_with_euler_unless_told_otherwise():
    (silent, batch), (told, _) = a_policy(), a_policy(sampler="euler")
    noise = batch.noise_BPHA[:, 0]
    assert torch.equal(silent.act(batch.obs, {}, noise, 3)[0], told.act(batch.obs, {}, noise, 3)[0])


def test_another_sampler_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"sampler: .*'euler', 'midpoint' or 'heun', found 'rk4'"):
        a_policy(sampler="rk4")


def test_a_loaded_bundle_samples_as_its_settings_say(tmp_path):
    usual = a_bundle(tmp_path / "euler")
    bundle.save(
        tmp_path / "heun",
        weights=usual.policy.state_dict(),
        config=usual.config.model_copy(update={"policy": {**usual.config.policy, "sampler": "heun"}}),
        norm_stats=usual.norm_stats,
        tokenize=usual.processor.tokenize,
        passport={},
    )
    assert (usual.policy.sampler, bundle.load(tmp_path / "heun").policy.sampler) == ("euler", "heun")
