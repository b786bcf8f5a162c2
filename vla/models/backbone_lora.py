"""Low-rank adapters beside frozen layers (LoRA, arXiv:2106.09685), by peft."""

from typing import Annotated

from peft import LoraConfig as PeftConfig
from peft import inject_adapter_in_model
from pydantic import Field
from torch import nn

from vla.config import Config
from vla.errors import ConfigError


class LoraConfig(Config):
    """Section `policy.lora`."""

    rank: Annotated[int, Field(gt=0)]
    alpha: Annotated[int, Field(gt=0)]
    """The adapters' output is multiplied by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)]
    """Of the adapters' input."""
    targets: tuple[str, ...] = Field(min_length=1)
    """Linear layers by the last part of their name, such as q_proj and v_proj."""


def add_lora(module: nn.Module, cfg: LoraConfig) -> None:
    """Put adapters beside the target layers of `module`, whose other weights are frozen by it.

    The adapters begin as zero, so that nothing changes before training. Raises ConfigError for a target that is none.
    """
    linear = sorted({name.rpartition(".")[2] for name, part in module.named_modules() if isinstance(part, nn.Linear)})
    for target in cfg.targets:
        if target not in linear:
            raise ConfigError(
                f"policy.lora.targets: expected some of {', '.join(linear)}, found {target!r}. Correct it."
            )
    inject_adapter_in_model(
        PeftConfig(r=cfg.rank, lora_alpha=cfg.alpha, lora_dropout=cfg.dropout, target_modules=list(cfg.targets)),
        module,
    )
