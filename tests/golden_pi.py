"""The reference tensors of tests/golden, and policies with their weights."""

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, stack

from vla import registry
from vla.models.pi import PiPolicy, Prefix
from vla.models.policy import Interface

FOLDER = Path(__file__).parent / "golden"
CAMERAS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
HORIZON = 5
DROPPED = "lm_head.weight"
PLACES = {
    "paligemma_with_expert.paligemma.model.vision_tower.vision_model.": "vision.",
    "paligemma_with_expert.paligemma.model.multi_modal_projector.linear.": "project.",
    "paligemma_with_expert.paligemma.model.language_model.": "language.",
    "paligemma_with_expert.gemma_expert.model.": "expert.",
    "action_in_proj.": "action_in.",
    "action_out_proj.": "action_out.",
    "time_mlp_in.": "time_in.",
    "time_mlp_out.": "time_out.",
    "action_time_mlp_in.": "action_time_in.",
    "action_time_mlp_out.": "action_time_out.",
    "state_proj.": "state_in.",
}
"""Beginning of openpi's name -> of ours; written out again here, as what the importer is compared with."""
SIZES = {
    "max_action_dim": 8,
    "vision": {"width": 48, "depth": 2, "mlp_dim": 96, "heads": 4, "patch_size": 14},
    "language": {"width": 64, "depth": 3, "mlp_dim": 96, "heads": 8, "kv_heads": 1, "head_dim": 16},
    "expert": {"width": 32, "depth": 3, "mlp_dim": 48, "heads": 8, "kv_heads": 1, "head_dim": 16},
    "vocabulary": 300,
}


def golden(name: str) -> dict[str, Tensor]:
    """The tensors of pi0 or pi05."""
    return load_file(FOLDER / f"{name}_tiny.safetensors")


def golden_policy(name: str, *, attention: str = "sdpa") -> PiPolicy:
    """Our policy with the reference's weights."""
    module = registry.find("policies", name)
    settings = {
        "name": name,
        "action_horizon": HORIZON,
        "num_steps": 10,
        **SIZES,
        **({"max_state_dim": 8} if name == "pi0" else {}),
        "attention": attention,
        "freeze_vision_tower": False,
        "freeze_language_model": False,
    }
    cfg = module.Config.parse(settings, where="tests")
    policy, _ = module.build(cfg, module.make_spec(cfg, Interface(CAMERAS, (56, 56), 8, 8, 12, 300)))
    weights = {key.removeprefix("weights/"): value for key, value in golden(name).items() if key.startswith("weights/")}
    policy.load_state_dict({_ours(key): value for key, value in weights.items() if not key.endswith(DROPPED)})
    return policy


def golden_prefix(policy: PiPolicy, tensors: dict[str, Tensor]) -> Prefix:
    """The context of the reference's inputs."""
    return policy.prefix(
        _stacked(tensors, "images"),
        image_is_pad_BV=~_stacked(tensors, "image_masks"),
        tokens_BL=tensors["inputs/tokens"],
        token_is_pad_BL=~tensors["inputs/token_mask"],
        state_BS=tensors["inputs/state"],
    )


def _stacked(tensors: dict[str, Tensor], kind: str) -> Tensor:
    return stack([tensors[f"inputs/{kind}/{camera}"] for camera in CAMERAS], dim=1)


def _ours(name: str) -> str:
    begin = next(begin for begin in PLACES if name.startswith(begin))
    return PLACES[begin] + name.removeprefix(begin)
