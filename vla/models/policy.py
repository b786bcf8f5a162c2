"""The policy contract: what every policy gets, what it answers, and the parts written once for all of them.

A policy implements `encode` (observation -> context) and `velocity` (noisy actions -> flow velocity). Training's
`forward` and inference's `act` are here, so every policy trains and samples the same way. Normalisation is not here:
policies live in normalised space (`vla/transforms.py`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, ClassVar, Generic, Protocol, Self, TypeVar

import torch
from jaxtyping import Bool, Float, Float32, Int64, UInt8
from pydantic import Field
from torch import Tensor, nn

from vla.assets import Asset
from vla.config import Config
from vla.models import flow_matching
from vla.models.flow_matching import SAMPLERS, SamplerName
from vla.terms import FeatureSpec, PolicySpec, PromptName

Memory = dict[str, Tensor]
"""Recurrent state with leading axis B; empty for a memoryless policy; never in a state_dict."""
C = TypeVar("C")
"""The context type of a policy: whatever `encode` leaves for `velocity`, leading axis Q, never mutated."""


class _OnDevice:
    """A dataclass of tensors that changes as one."""

    def to(self, device: torch.device) -> Self:
        return self.each(lambda tensor: _moved(tensor, device))

    def first(self, count: int) -> Self:
        """The first rows of every tensor."""
        return self.each(lambda tensor: tensor[:count])

    def each(self, change: Callable[[Tensor], Tensor]) -> Self:
        """What `change` makes of every tensor."""
        changed: dict[str, Any] = {}
        for item in fields(self):  # type: ignore[arg-type]  # subclasses are dataclasses
            value = getattr(self, item.name)
            if isinstance(value, _OnDevice):
                changed[item.name] = value.each(change)
            elif isinstance(value, Tensor):
                changed[item.name] = change(value)
            elif isinstance(value, dict):
                changed[item.name] = {key: change(tensor) for key, tensor in value.items()}
        return replace(self, **changed)  # type: ignore[type-var]


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda" and tensor.device.type == "cpu":
        # A copy from ordinary memory would wait for everything that the GPU has to do before it.
        return tensor.contiguous().pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@dataclass(frozen=True, slots=True)
class Observation(_OnDevice):
    """T steps of what the robot senses, oldest first; views in spec order."""

    images_BTVCYX: UInt8[Tensor, "B T V C Y X"] | None
    """None when features replace the images."""
    image_is_pad_BTV: Bool[Tensor, "B T V"]
    """Camera absent."""
    state_BTS: Float32[Tensor, "B T S"]
    """Normalised."""
    tokens_BTL: Int64[Tensor, "B T L"]
    token_is_pad_BTL: Bool[Tensor, "B T L"]
    step_is_pad_BT: Bool[Tensor, "B T"]
    """Before the episode start."""
    time_BT: Float32[Tensor, "B T"]
    """Seconds since the episode start."""
    depth_BTVYX: Float32[Tensor, "B T V Y X"] | None
    """Metres; 0 = invalid."""
    intrinsics_BTV33: Float32[Tensor, "B T V 3 3"] | None
    """Of the image as given: resize and crop applied."""
    poses_BTV44: Float32[Tensor, "B T V 4 4"] | None
    """Camera to robot base."""
    features: dict[str, Tensor]
    """Frozen features: name -> [B, T, N, D]."""


@dataclass(frozen=True, slots=True)
class Batch(_OnDevice):
    """A micro-batch with everything that decides its loss, randomness included."""

    obs: Observation
    actions_BPHA: Float32[Tensor, "B P H A"]
    """Normalised; past the episode end the last action repeats, padded dims are 0."""
    weight_BPHA: Float32[Tensor, "B P H A"]
    """Real step * real dim * sample weight."""
    noise_BPHA: Float32[Tensor, "B P H A"]
    time_BPH: Float32[Tensor, "B P H"]
    """Flow time per action token: 1 = noise, 0 = actions."""
    sample_uid_B: Int64[Tensor, "B"]
    weight_total: float
    """Sum of the weights over the whole optimizer step: all ranks, all micro-batches."""


@dataclass(frozen=True, slots=True)
class Encoded(Generic[C]):
    """What `encode` returns."""

    context: C
    memory: Memory
    auxiliary: Mapping[str, Tensor]
    """Named scalar losses that are added to the flow loss."""


@dataclass(frozen=True, slots=True)
class FlowLoss:
    """Unreduced flow-matching errors; the loop weighs and reduces them (means of means are wrong)."""

    error_BPHA: Float32[Tensor, "B P H A"]
    auxiliary: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """Parameters that share a learning-rate ratio and a weight decay; names are kept for audits and logs."""

    name: str
    parameters: Mapping[str, nn.Parameter]
    lr_scale: float
    weight_decay: bool


class FrozenEncoder(nn.Module, ABC):
    """The frozen part of a policy: beside it, never a submodule; not in DDP, the optimizer or a checkpoint.

    Step t of the output depends on step t of the input alone, over all views jointly.
    """

    specs: Mapping[str, FeatureSpec]
    digest: str

    @abstractmethod
    def forward(self, obs: Observation) -> dict[str, Tensor]:
        """Feature name -> [B, T, N, D]."""


class Policy(nn.Module, ABC, Generic[C]):
    """Base of all policies."""

    spec: PolicySpec
    sampler: SamplerName = "euler"
    """How `act` integrates; `build_policy` sets it."""

    def initial_memory(self, batch_size: int, device: torch.device) -> Memory:
        """Memory at an episode start."""
        del batch_size, device
        return {}

    @abstractmethod
    def encode(self, obs: Observation, memory: Memory) -> Encoded[C]:
        """Read T >= 1 steps; the context has leading axis Q = B * P."""

    @abstractmethod
    def velocity(
        self, context: C, noisy_actions_QHA: Float[Tensor, "Q H A"], time_QH: Float[Tensor, "Q H"]
    ) -> Float32[Tensor, "Q H A"]:
        """The predicted d(noisy actions)/d(time) = noise - actions."""

    def parameter_groups(self) -> Iterator[ParameterGroup]:
        """Matrices with weight decay, vectors (norms, biases, embeddings of one axis) without, one learning rate."""
        named = {name: value for name, value in self.named_parameters() if value.requires_grad}
        yield ParameterGroup("matrices", {k: v for k, v in named.items() if v.ndim >= 2}, 1.0, weight_decay=True)
        yield ParameterGroup("vectors", {k: v for k, v in named.items() if v.ndim < 2}, 1.0, weight_decay=False)

    def action_output(self) -> nn.Linear | None:
        """The layer whose output is the velocity, with one row of weights per action dimension, where there is one."""
        return None

    def checkpointed_blocks(self) -> Sequence[nn.Module]:
        """The blocks that activation checkpointing computes again in the backward pass; none unless overridden."""
        return ()

    def forward(self, batch: Batch) -> FlowLoss:
        """Flow-matching errors of a micro-batch; this is what DDP wraps."""
        b, p, h, a = batch.actions_BPHA.shape
        memory = self.initial_memory(b, batch.actions_BPHA.device)
        encoded = self.encode(batch.obs, memory)
        actions, noise = batch.actions_BPHA.reshape(b * p, h, a), batch.noise_BPHA.reshape(b * p, h, a)
        time = batch.time_BPH.reshape(b * p, h)
        noisy = flow_matching.interpolate(actions, noise, time)
        predicted = self.velocity(encoded.context, noisy, time)
        error = (predicted.float() - flow_matching.target_velocity(actions, noise)).square()
        return FlowLoss(error.reshape(b, p, h, a), encoded.auxiliary)

    @torch.no_grad()
    def act(
        self, obs: Observation, memory: Memory, noise_BHA: Float32[Tensor, "B H A"], num_steps: int
    ) -> tuple[Float32[Tensor, "B H A"], Memory]:
        """Sample an action chunk for the last step of `obs` by integration from the given noise."""
        encoded = self.encode(obs, memory)
        context = self.last_step(encoded.context, len(noise_BHA))

        real = self.spec.real_action_dim

        def field(noisy: Tensor, time: float) -> Tensor:
            velocity = self.velocity(context, noisy, torch.full(noisy.shape[:2], time, device=noisy.device))
            # Padded dimensions have been time * noise in training, whatever the policy answers there.
            return torch.cat([velocity[..., :real], noise_BHA[..., real:]], dim=-1)

        return SAMPLERS[self.sampler](field, noise_BHA, num_steps), encoded.memory

    def load_pretrained(self, asset: Asset) -> None:
        """Take over the weights that `PolicyConfig.pretrained` has found, strictly."""
        raise AssertionError(f"{type(self).__name__} begins without pretrained weights, found {asset.root}")

    def last_step(self, context: C, batch_size: int) -> C:
        """The rows of the last predicted step; the identity where P = 1."""
        del batch_size
        if self.spec.predict_steps != 1:
            raise AssertionError(f"{type(self).__name__} predicts {self.spec.predict_steps} steps: override last_step")
        return context


class PolicyConfig(Config):
    """Base of a policy file's `Config` (section `policy`)."""

    prompt: ClassVar[PromptName] = "instruction"
    """What text the policy reads."""
    transferable: ClassVar[frozenset[str]] = frozenset()
    """What new data may differ in when a bundle of this policy is fine-tuned, because no weight depends on it: names of
    `vla/training/fine_tuning.py`, such as `action dimensions`."""

    name: str
    """File name in vla/policies."""
    action_horizon: Annotated[int, Field(gt=0)]
    """Predicted steps."""
    num_steps: Annotated[int, Field(gt=0)]
    """Sampling steps at inference."""
    sampler: SamplerName = "euler"
    """midpoint and heun evaluate the velocity twice in each step: see docs/policies.md, Sampling."""

    def resolved(self) -> Self:
        """The same settings with what a pretrained model's own files say, so that a bundle needs none of them."""
        return self

    def pretrained(self) -> Asset | None:
        """The files of the weights that a new training begins with; None for random ones."""
        return None


class PolicyModule(Protocol):
    """What a module of `vla/policies` offers: `Config`, `make_spec` and `build`."""

    Config: type[PolicyConfig]

    def make_spec(self, cfg: PolicyConfig, interface: "Interface") -> PolicySpec:
        """The policy's interface to this data; raises ConfigError when they do not fit."""
        ...

    def build(self, cfg: PolicyConfig, spec: PolicySpec) -> tuple[Policy[Any], FrozenEncoder | None]:
        """A freshly initialised policy and its frozen part, if it has one."""
        ...


def build_policy(module: PolicyModule, cfg: PolicyConfig, spec: PolicySpec) -> tuple[Policy[Any], FrozenEncoder | None]:
    """A freshly initialised policy that samples as its settings say, and its frozen part."""
    policy, frozen = module.build(cfg, spec)
    policy.sampler = cfg.sampler
    return policy, frozen


@dataclass(frozen=True, slots=True)
class Interface:
    """What the data and the transforms offer a policy."""

    views: tuple[str, ...]
    image_size: tuple[int, int]
    state_dim: int
    action_dim: int
    max_tokens: int
    vocabulary: int

    def spec(self, cfg: PolicyConfig, **chosen: Any) -> PolicySpec:
        """The spec of a policy with these settings for these data; `chosen` is what the policy says itself."""
        offered = {item.name: getattr(self, item.name) for item in fields(self)}
        return PolicySpec(**{**offered, "action_horizon": cfg.action_horizon, "prompt": cfg.prompt, **chosen})
