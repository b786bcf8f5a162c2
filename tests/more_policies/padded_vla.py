"""tiny_vla with what only large policies have otherwise: padded actions, the state as text, pretrained weights."""

from dataclasses import replace
from typing import ClassVar, Literal, Self

from safetensors.torch import load_file

from vla import artifacts, assets
from vla.assets import Asset, AssetSource
from vla.models.policy import FrozenEncoder, Interface
from vla.policies import tiny_vla
from vla.policies.tiny_vla import TinyVLA
from vla.terms import PolicySpec, PromptName

WIDTH = 5
"""Of the action tensors."""


class Config(tiny_vla.Config):
    prompt: ClassVar[PromptName] = "pi05"
    transferable: ClassVar[frozenset[str]] = frozenset({"action dimensions", "policy.weights"})

    name: Literal["padded_vla"]  # type: ignore[assignment]
    weights: AssetSource | None = None
    """A folder with `width.json` and `model.safetensors`."""
    width: int = 0
    """0 for what the folder says."""

    def resolved(self) -> Self:
        found = self.pretrained()
        width = artifacts.read_json(found.root / "width.json", made_by="a test") if found else self.width
        return self.model_copy(update={"width": width})

    def pretrained(self) -> Asset | None:
        if self.weights is None:
            return None
        return assets.find(self.weights, ["model.safetensors", "width.json"], where="policy.weights")


class PaddedVLA(TinyVLA):
    def load_pretrained(self, asset: Asset) -> None:
        self.load_state_dict(load_file(asset.root / "model.safetensors"))


def make_spec(cfg: Config, interface: Interface) -> PolicySpec:
    made = tiny_vla.make_spec(cfg, interface)
    return replace(made, action_dim=WIDTH, padded_action_dims=WIDTH - interface.action_dim, prompt=cfg.prompt)


def build(cfg: Config, spec: PolicySpec) -> tuple[PaddedVLA, FrozenEncoder | None]:
    return PaddedVLA(cfg, spec), None
