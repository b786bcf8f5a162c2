"""paligemma_vla: PaliGemma reads each of the last steps by itself; a flow-matching head acts on that short history.

    step t: images, text --PaliGemma--> hidden states --resampler--> tokens --pool--> (+ state) step embedding
    the last `window_steps` step embeddings and the last step's tokens --head--> velocity

Steps are read by themselves so that a robot computes each one once: the memory holds the embeddings of the earlier
ones, and acting step by step equals reading the whole window. The price is that a step's pixels meet those of earlier
steps only as one vector. All trained weights can be those of the head (everything else frozen in bfloat16), of adapters
(LoRA) or of the last layers as well.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, Self

import torch
from jaxtyping import Float, Float32
from pydantic import Field
from torch import Tensor, nn

from vla.assets import Asset
from vla.config import Config as Section
from vla.errors import ConfigError
from vla.models import backbone_paligemma_weights as pretrained_weights
from vla.models.backbone_lora import LoraConfig, add_lora
from vla.models.backbone_paligemma import BackboneConfig, PaliGemmaBackbone
from vla.models.heads import Context, History, MlpHead, TransformerHead
from vla.models.policy import (
    Encoded,
    FrozenEncoder,
    Interface,
    Memory,
    Observation,
    ParameterGroup,
    Policy,
    PolicyConfig,
)
from vla.models.pooling import QUERY_HEADS, MlpResampler, PoolName, make_pool
from vla.terms import PolicySpec, PromptName

Size = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


class ResamplerConfig(Section):
    """Section `policy.resampler`."""

    type: Literal["mlp"]
    output_dim: Size
    """Width of tokens and step embeddings."""


class MlpHeadConfig(Section):
    """Section `policy.head` of an MLP over the pooled history."""

    type: Literal["mlp"]
    hidden_dims: tuple[Size, ...]
    dropout: Share


class TransformerHeadConfig(Section):
    """Section `policy.head` of a transformer that attends to the history."""

    type: Literal["transformer"]
    width: Size
    heads: Size
    layers: Size
    dropout: Share
    """Of what it attends to."""


class Config(PolicyConfig):
    """Section `policy` for paligemma_vla."""

    prompt: ClassVar[PromptName] = "paligemma"
    transferable: ClassVar[frozenset[str]] = frozenset(
        {
            "views",
            "transforms.max_tokens",
            "policy.freeze_vision_tower",
            "policy.freeze_language_model",
            "policy.unfreeze_last_layers",
        }
    )

    name: Literal["paligemma_vla"]
    per_action_dim: Size
    """Dimensions of one action."""
    action_dim: Size
    """Of the whole chunk: action_horizon * per_action_dim."""
    window_steps: Size
    """Steps that are seen, the last one included (`max_seq_len`)."""
    step_stride: Size
    """Dataset steps between two of them; a robot replans as often."""
    use_state_input: bool
    num_image_tokens: Size
    """Per image; checked against image and patch size."""
    backbone: BackboneConfig
    freeze_vision_tower: bool
    freeze_language_model: bool
    unfreeze_last_layers: Annotated[int, Field(ge=0)] = 0
    """Layers of a frozen language model, counted from the last used one, that are trained all the same."""
    lora: LoraConfig | None = None
    """Adapters in a frozen language model."""
    resampler: ResamplerConfig
    pool: PoolName
    head: Annotated[MlpHeadConfig | TransformerHeadConfig, Field(discriminator="type")]

    def resolved(self) -> Self:
        return self.model_copy(update={"backbone": pretrained_weights.resolved(self.backbone)})

    def pretrained(self) -> Asset | None:
        return pretrained_weights.find_weights(self.backbone)


class PaliGemmaVLA(Policy[Context]):
    """See the module's docstring."""

    def __init__(self, cfg: Config, spec: PolicySpec) -> None:
        super().__init__()
        self.spec = spec
        self.width = cfg.resampler.output_dim
        self.backbone = _make_backbone(cfg, spec)
        self.resampler = MlpResampler(self.backbone.width, self.width)
        self.pool = make_pool(cfg.pool, self.width)
        self.embed_state = (
            nn.Sequential(nn.Linear(spec.state_dim, self.width), nn.SiLU(), nn.Linear(self.width, self.width))
            if cfg.use_state_input
            else None
        )
        self.head = _make_head(cfg, spec)

    def initial_memory(self, batch_size: int, device: torch.device) -> Memory:
        """The embeddings of the window's earlier steps; all of them are padding."""
        earlier = self.spec.window_steps - 1
        return {
            "steps": torch.zeros(batch_size, earlier, self.width, device=device),
            "step_is_pad": torch.ones(batch_size, earlier, dtype=torch.bool, device=device),
        }

    def encode(self, obs: Observation, memory: Memory) -> Encoded[Context]:
        if obs.images_BTVCYX is None:
            raise AssertionError("paligemma_vla has its frozen part inside: features cannot replace its images")
        b, t = obs.tokens_BTL.shape[:2]
        hidden_NMD, is_pad_NM = self.backbone(
            obs.images_BTVCYX.flatten(0, 1),
            obs.image_is_pad_BTV.flatten(0, 1),
            obs.tokens_BTL.flatten(0, 1),
            obs.token_is_pad_BTL.flatten(0, 1),
        )
        tokens_NMD = self.resampler(hidden_NMD)
        new_BTD = self.pool(tokens_NMD, is_pad_NM).float().unflatten(0, (b, t))
        if self.embed_state is not None:
            new_BTD = new_BTD + self.embed_state(obs.state_BTS)
        steps = torch.cat([memory["steps"], new_BTD], dim=1)
        step_is_pad = torch.cat([memory["step_is_pad"], obs.step_is_pad_BT], dim=1)
        window = self.spec.window_steps
        history = History(
            steps_QWD=steps[:, -window:],
            step_is_pad_QW=step_is_pad[:, -window:],
            tokens_QND=tokens_NMD.unflatten(0, (b, t))[:, -1],
            token_is_pad_QN=is_pad_NM.unflatten(0, (b, t))[:, -1],
        )
        kept = slice(steps.shape[1] - (window - 1), None)
        remembered = {"steps": steps[:, kept], "step_is_pad": step_is_pad[:, kept]}
        return Encoded(self.head.read(history), remembered, {})

    def velocity(
        self, context: Context, noisy_actions_QHA: Float[Tensor, "Q H A"], time_QH: Float[Tensor, "Q H"]
    ) -> Float32[Tensor, "Q H A"]:
        """The predicted d(noisy actions)/d(time)."""
        velocity: Tensor = self.head(noisy_actions_QHA, time_QH, context)
        return velocity

    def parameter_groups(self) -> Iterator[ParameterGroup]:
        """The groups `backbone` and `head` (all that begins at random), each in matrices and vectors."""
        for group in super().parameter_groups():
            for name in ("backbone", "head"):
                named = {
                    key: value
                    for key, value in group.parameters.items()
                    if key.startswith("backbone.") == (name == "backbone")
                }
                yield replace(group, name=name, parameters=named)

    def load_pretrained(self, asset: Asset) -> None:
        pretrained_weights.load_weights(self.backbone, asset)

    def action_output(self) -> nn.Linear | None:
        return self.head.action_output()

    def checkpointed_blocks(self) -> Sequence[nn.Module]:
        own = self.head.expert.blocks if isinstance(self.head, TransformerHead) else ()
        return (*self.backbone.trained_blocks(), *own)


def make_spec(cfg: Config, interface: Interface) -> PolicySpec:
    """The policy's interface to this data; raises ConfigError for what cannot work together."""
    _check_actions(cfg, interface)
    _check_images(cfg, interface)
    _check_language(cfg, interface)
    return interface.spec(cfg, window_steps=cfg.window_steps, step_stride=cfg.step_stride)


def build(cfg: Config, spec: PolicySpec) -> tuple[PaliGemmaVLA, FrozenEncoder | None]:
    """A freshly initialised policy; its frozen parts are inside it."""
    return PaliGemmaVLA(cfg, spec), None


def _make_backbone(cfg: Config, spec: PolicySpec) -> PaliGemmaBackbone:
    backbone = PaliGemmaBackbone(cfg.backbone, image_size=spec.image_size[0], vocabulary=spec.vocabulary)
    backbone.freeze(
        vision=cfg.freeze_vision_tower, language=cfg.freeze_language_model, last_layers=cfg.unfreeze_last_layers
    )
    if cfg.lora is not None:
        add_lora(backbone.model.language_model, cfg.lora)
    backbone.cast_frozen(cfg.backbone.dtype)
    return backbone


def _make_head(cfg: Config, spec: PolicySpec) -> MlpHead | TransformerHead:
    width, head = cfg.resampler.output_dim, cfg.head
    if isinstance(head, MlpHeadConfig):
        return MlpHead(spec, width=width, hidden_dims=head.hidden_dims, dropout=head.dropout)
    return TransformerHead(
        spec, width_in=width, width=head.width, heads=head.heads, layers=head.layers, dropout=head.dropout
    )


def _check_actions(cfg: Config, interface: Interface) -> None:
    if cfg.per_action_dim != interface.action_dim:
        raise ConfigError(
            f"policy.per_action_dim: expected the {interface.action_dim} action dimensions of the data, found "
            f"{cfg.per_action_dim}. Set it to {interface.action_dim}."
        )
    chunk = cfg.action_horizon * cfg.per_action_dim
    if cfg.action_dim != chunk:
        raise ConfigError(
            f"policy.action_dim: expected action_horizon * per_action_dim = {cfg.action_horizon} * "
            f"{cfg.per_action_dim} = {chunk}, found {cfg.action_dim}. Correct one of the three."
        )
    heads = {"policy.head.width": (cfg.head.width, cfg.head.heads)} if cfg.head.type == "transformer" else {}
    if cfg.pool == "query":
        heads["policy.resampler.output_dim"] = (cfg.resampler.output_dim, QUERY_HEADS)
    for name, (width, count) in heads.items():
        if width % count:
            raise ConfigError(f"{name}: expected a multiple of its {count} attention heads, found {width}. Change it.")


def _check_images(cfg: Config, interface: Interface) -> None:
    rows, columns = interface.image_size
    patch = cfg.backbone.sizes[0].patch_size
    size = cfg.backbone.image_size or rows
    if rows != columns or rows != size or size % patch:
        raise ConfigError(
            f"transforms.image_size: expected a square of {cfg.backbone.image_size or f'a multiple of {patch}'} "
            f"pixels for policy.backbone, found {list(interface.image_size)}. Change it."
        )
    tokens = (size // patch) ** 2
    if cfg.num_image_tokens != tokens:
        raise ConfigError(
            f"policy.num_image_tokens: expected {tokens}, for an image of {size} x {size} pixels in patches of "
            f"{patch} x {patch}, found {cfg.num_image_tokens}. Set it to {tokens}."
        )


def _check_language(cfg: Config, interface: Interface) -> None:
    text, layers = cfg.backbone.sizes[1], cfg.backbone.layers
    if layers > text.depth:
        raise ConfigError(
            f"policy.backbone.feature_layer: expected at most the {text.depth} layers of the language model, found "
            f"{layers}. Lower it, or set it to null."
        )
    if text.vocabulary is not None and text.vocabulary < interface.vocabulary:
        raise ConfigError(
            f"policy.backbone.text.vocabulary: expected at least the {interface.vocabulary} ids of the tokenizer, "
            f"found {text.vocabulary}. Set transforms.tokenizer to the backbone's own, or raise it."
        )
    if cfg.unfreeze_last_layers > layers:
        raise ConfigError(
            f"policy.unfreeze_last_layers: expected at most the {layers} layers in use, found "
            f"{cfg.unfreeze_last_layers}. Lower it."
        )
    partial = {"unfreeze_last_layers": bool(cfg.unfreeze_last_layers), "lora": cfg.lora is not None}
    chosen = [name for name, is_chosen in partial.items() if is_chosen]
    if len(chosen) > 1 or (chosen and not cfg.freeze_language_model):
        raise ConfigError(
            f"policy.{chosen[-1]}: expected it for a frozen language model and without another way to train a part of "
            f"it, found {' and '.join(chosen)} with freeze_language_model {str(cfg.freeze_language_model).lower()}. "
            f"Choose one, with freeze_language_model true."
        )
